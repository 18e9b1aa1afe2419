"""Features of all widths of a frozen ResNet-50 against its module in eval mode, width by width. JSON.

    python -m benchmarks.bench_frozen [--quick] [--image-size 224] [--batch 16] [--repeats 5] [--precision fp32]

"eager" is the module as it is trained, in eval mode without gradients, fp32 and NCHW; with `--precision fp16` or bf16
also under autocast ("autocast"). "frozen" is `slimclr.nn.inference.FrozenBackbone`. They take turns, each round in
the other order; a ratio is the median over the rounds.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.timing import machine, timed
from slimclr.nn import SlimmableResNet
from slimclr.nn.inference import PRECISIONS, FrozenBackbone

WIDTHS = (1.0, 0.75, 0.5, 0.25)


def network(depth: int) -> SlimmableResNet:
    """A network with batch norms as after a training: none is the identity."""
    torch.manual_seed(0)
    backbone = SlimmableResNet(depth, 64, WIDTHS, zero_init_residual=False)
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.2, 0.6)
            nn.init.normal_(norm.bias, std=0.1)
    return backbone.eval()


def eager(backbone: SlimmableResNet, images: Tensor, precision: str) -> Callable[[], dict[float, Tensor]]:
    """Every width for itself."""
    dtype, device = PRECISIONS[precision], images.device

    @torch.no_grad()
    def features() -> dict[float, Tensor]:
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            return {width: backbone(images, width) for width in WIDTHS}

    return features


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with a small network")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument("--compile", action="store_true", help="the frozen backbone through torch.compile")
    options = parser.parse_args()
    depth = 14 if options.quick else 50
    size, batch, repeats = (32, 4, 1) if options.quick else (options.image_size, options.batch, options.repeats)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    backbone, images = network(depth).to(device), torch.randn(batch, 3, size, size, device=device)
    frozen = FrozenBackbone(backbone, device, precision=options.precision, compiled=options.compile)
    ways: dict[str, Callable[[], dict[float, Tensor]]] = {"eager": eager(backbone, images, "fp32")}
    if options.precision != "fp32":
        ways["autocast"] = eager(backbone, images, options.precision)
    ways["frozen"] = lambda: frozen(images)
    got = {name: features() for name, features in ways.items()}
    difference = max(((got["frozen"][w] - rows).norm() / rows.norm()).item() for w, rows in got["eager"].items())
    for features in ways.values():
        for _ in range(0 if device.type == "cpu" else 10):
            features()
    rounds: list[dict[str, float]] = []
    for index in range(repeats):
        names = list(ways)[:: 1 if index % 2 == 0 else -1]
        rounds.append({name: timed(ways[name], device) for name in names})
    seconds = {name: statistics.median(values[name] for values in rounds) for name in ways}
    result = {
        "machine": machine(device),
        "network": f"ResNet-{depth}",
        "widths": WIDTHS,
        "image_size": size,
        "batch": batch,
        "precision": options.precision,
        "compiled": options.compile,
        "images_per_s": {name: round(batch / value, 1) for name, value in seconds.items()},
        "faster_than": {
            name: round(statistics.median(values[name] / values["frozen"] for values in rounds), 3)
            for name in ways
            if name != "frozen"
        },
        "greatest_relative_difference": difference,
        "rounds": [{name: round(value, 4) for name, value in values.items()} for values in rounds],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
