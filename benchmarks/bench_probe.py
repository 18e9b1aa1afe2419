"""A step of the linear probe with five learning rates against one with one. JSON.

    python -m benchmarks.bench_probe [--quick] [--image-size 224] [--batch 32] [--classes 1000] [--repeats 5] [--fold]

Both train the classifiers of four widths of a frozen ResNet-50, without reading images. "published" is the probe as it
is without a grid. With `--fold` the features of the other two come from the folded backbone. They take turns, each
round in the other order; a ratio is the median over the rounds.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.timing import machine, timed
from slimclr.build.optimizer import build_optimizer
from slimclr.build.probe import build_probe
from slimclr.config import Probe
from slimclr.nn import SlimmableResNet
from slimclr.probe.grid import GridProbe

WIDTHS = (1.0, 0.75, 0.5, 0.25)
RATES = (3.0, 10.0, 30.0, 100.0)


def step(recipe: Probe, depth: int, classes: int, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step as the training loop makes it."""
    torch.manual_seed(0)
    method = build_probe(recipe, SlimmableResNet(depth, 64, WIDTHS), classes=classes, device=images.device)
    groups = method.parameter_groups() if isinstance(method, GridProbe) else None
    assert recipe.optimizer is not None
    optimizer = build_optimizer(recipe.optimizer, method.trainable(), groups=groups)
    method.train()

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        method([images], labels, 0.0).loss.backward()
        optimizer.step()

    return once


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with a small network")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fold", action="store_true", help="features of the folded backbone")
    options = parser.parse_args()
    depth, classes = (14, 10) if options.quick else (50, options.classes)
    size, batch, repeats = (32, 4, 1) if options.quick else (options.image_size, options.batch, options.repeats)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % classes
    base = {"epochs": 100, "batch": batch, "optimizer": {"lr": 60.0, "weight_decay": 0.0}}
    held_out = base | {"held_out": 0.02} | ({"frozen": {}} if options.fold else {})
    recipes = {"published": base, "one_rate": held_out, "five_rates": held_out | {"grid": {"lr": RATES}}}
    steps = {
        name: step(Probe.model_validate(recipe), depth, classes, images, labels) for name, recipe in recipes.items()
    }
    for call in steps.values():
        for _ in range(1 if device.type == "cpu" else 10):
            call()
    rounds: list[dict[str, float]] = []
    for index in range(repeats):
        names = list(steps)[:: 1 if index % 2 == 0 else -1]
        rounds.append({name: timed(steps[name], device) for name in names})
    result = {
        "machine": machine(device),
        "network": f"ResNet-{depth}",
        "widths": WIDTHS,
        "image_size": size,
        "batch": batch,
        "classes": classes,
        "folded": options.fold,
        "seconds": {name: round(statistics.median(values[name] for values in rounds), 4) for name in steps},
        "five_rates_over": {
            name: round(statistics.median(values["five_rates"] / values[name] for values in rounds), 3)
            for name in ("one_rate", "published")
        },
        "rounds": [{name: round(value, 4) for name, value in values.items()} for values in rounds],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
