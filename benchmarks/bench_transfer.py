"""An iteration of the transfer: all widths jointly, each by itself, and mmdet's own Mask R-CNN R50-FPN. JSON.

    .venvs/detection/bin/python -m benchmarks.bench_transfer [--quick] [--image-size 256] [--batch 1] [--repeats 5]
        [--precision fp32]

An iteration is forward, backward and a step of SGD on random images with random boxes, whose loading is not counted.
"separate" is the sum of one iteration for each width, "stock" mmdet's unmodified configuration (frozen stem and first
stage, batch norms in eval mode) with random weights. The variants take turns, each round in the other order; a ratio is
the median over the rounds.
"""

import argparse
import copy
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.structures import InstanceData
from torch import nn

from benchmarks.timing import machine, timed
from slimclr.detection import backbone, detector  # noqa: F401 - puts them into mmengine's registries
from slimclr.detection.optimisation import optimisation
from slimclr.detection.recipe import model_config
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import save_weights

WIDTHS = (1.0, 0.75, 0.5, 0.25)
# Of a photo of COCO, about.
INSTANCES = 7


def random_batch(count: int, side: int) -> dict[str, list[Any]]:
    """Images of side x side px with instances, as a loader gives them."""
    samples = []
    for _ in range(count):
        corners = torch.randint(0, side // 2, (INSTANCES, 2))
        boxes = torch.cat([corners, corners + torch.randint(side // 8, side // 2, (INSTANCES, 2))], dim=1).float()
        masks = BitmapMasks(torch.ones(INSTANCES, side, side, dtype=torch.uint8).numpy(), side, side)
        shape = {"img_shape": (side, side), "ori_shape": (side, side), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=shape)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(80, (INSTANCES,)), masks=masks)
        samples.append(sample)
    images = [torch.randint(0, 255, (3, side, side), dtype=torch.uint8) for _ in range(count)]
    return {"inputs": images, "data_samples": samples}


def build(config: dict[str, Any], *, quick: bool) -> nn.Module:
    """A detector; where it is to be quick, of few regions."""
    config = ConfigDict(config)
    if quick:
        config.train_cfg.rpn_proposal.max_per_img = config.train_cfg.rcnn.sampler.num = 16
    return MODELS.build(config)


def build_slimmable(folder: Path, depth: int, *, quick: bool) -> nn.Module:
    """Our detector with a random backbone."""
    network = SlimmableResNet(depth, 64, WIDTHS, zero_init_residual=False)
    weights = folder / "weights.safetensors"
    save_weights(weights, {f"backbone.{name}": t for name, t in network.state_dict().items()}, network.shape)
    return build(model_config(weights=weights, stage_channels=network.stage_channels, classes=80), quick=quick)


def build_stock(*, quick: bool) -> nn.Module:
    """Mmdet's own, without the weights that its configuration would fetch."""
    config = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model
    config.backbone.init_cfg = None
    return build(config, quick=quick)


def optimiser(model: nn.Module, batch: int, precision: str) -> OptimWrapper:
    """The recipe's, with its learning rate near nothing, so that no loss grows without limit."""
    settings = {"momentum": 0.9, "weight_decay": 1e-4, "grad_clip": 35.0, "warmup_iterations": 0, "warmup_ratio": 0.1}
    config = optimisation(epochs=1, milestones=[], lr=1e-9, batch=batch, precision=precision, **settings)
    wrapper = config["optim_wrapper"]
    wrapper["optimizer"] = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4)
    return OPTIM_WRAPPERS.build(wrapper)


def iterations(folder: Path, options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    depth, side, count = (14, 64, 1) if options.quick else (50, options.image_size, options.batch)
    data = random_batch(count, side)
    slimmable, stock = build_slimmable(folder, depth, quick=options.quick), build_stock(quick=options.quick)
    for model in (slimmable, stock):
        model.to(device).train()
    wrappers = [optimiser(model, count, options.precision) for model in (slimmable, stock)]

    def joint(*widths: float) -> None:
        slimmable.backbone.widths = widths
        slimmable.train_step(copy.deepcopy(data), wrappers[0])

    return {
        "joint": lambda: joint(*WIDTHS),
        **{f"width_{width}": lambda width=width: joint(width) for width in WIDTHS},
        "stock": lambda: stock.train_step(copy.deepcopy(data), wrappers[1]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with a small backbone")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    options = parser.parse_args()
    register_all_modules()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = machine(device)
    with tempfile.TemporaryDirectory() as folder:
        steps = iterations(Path(folder), options, device)
        for step in steps.values():
            step()
        rounds: list[dict[str, float]] = []
        for index in range(1 if options.quick else options.repeats):
            names = list(steps)[:: 1 if index % 2 == 0 else -1]
            rounds.append({name: timed(steps[name], device) for name in names})
    for values in rounds:
        values["separate"] = sum(values[f"width_{width}"] for width in WIDTHS)

    def ratio(over: str, under: str) -> float:
        return round(statistics.median(values[over] / values[under] for values in rounds), 3)

    seconds = {name: round(statistics.median(values[name] for values in rounds), 4) for name in rounds[0]}
    result = {
        "machine": before,
        "threads": torch.get_num_threads(),
        **vars(options),
        "seconds": seconds,
        "joint_over_separate": ratio("joint", "separate"),
        "joint_over_stock": ratio("joint", "stock"),
        "width_1.0_over_stock": ratio("width_1.0", "stock"),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6) if device.type == "cuda" else None,
        "rounds": [{name: round(value, 4) for name, value in values.items()} for values in rounds],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
