"""`slimclr evaluate`."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from slimclr.commands.arguments import IMAGES, at_least
from slimclr.config import Backend, Probe
from slimclr.errors import UserError

HELP = "Evaluate a trained classifier or detector at every width; no training data, no training."
# What a detector has no use for.
_OF_CLASSIFIERS = ("classifier", "recalibrate", "by_class", "resize", "image_size", "views", "batch", "loader")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="weights.safetensors: with a classifier, or the probe's backbone; with --coco detector.safetensors",
    )
    parser.add_argument("--classifier", type=Path, metavar="FILE", help="classifier.safetensors of the weights' probe")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--data", type=Path, help=f"labelled images: {IMAGES}")
    images.add_argument(
        "--coco", type=Path, metavar="FOLDER", help="annotations/instances_val2017.json and val2017/, for a detector"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="with --coco: what every width sees on a few photos"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    parser.add_argument(
        "--widths", type=_width, nargs="+", metavar="WIDTH", help="these widths (default: those that were trained)"
    )
    parser.add_argument(
        "--recalibrate",
        type=Path,
        metavar="DATA",
        help=f"training images to measure batch norms of widths on that were never trained: {IMAGES}",
    )
    parser.add_argument(
        "--recalibrate-images", type=at_least(2), default=4096, metavar="N", help="how many of them (default 4096)"
    )
    parser.add_argument("--by-class", action="store_true", help="accuracies of every class, too")
    parser.add_argument("--resize", type=at_least(1), metavar="PIXELS", help="shorter side before the centre crop")
    parser.add_argument("--image-size", type=at_least(1), metavar="PIXELS", help="side of the crop")
    parser.add_argument(
        "--views", choices=get_args(Probe.model_fields["views"].annotation), help="CIFAR's: neither resized nor cropped"
    )
    parser.add_argument("--batch", type=at_least(1), help="images of a batch (default: the probe's, else 256)")
    parser.add_argument("--workers", type=at_least(0), default=4, help="loader processes (default 4)")
    parser.add_argument("--loader", choices=get_args(Backend), help="default: the probe's, else torchvision")
    parser.add_argument("--gpus", type=at_least(0, 1), default=0, help="1: on a GPU; 0 is the CPU (default)")
    parser.add_argument("--no-tf32", dest="tf32", action="store_false", help="GPU: no TF32")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    _check(options)
    from slimclr.engine.distributed import launch

    # It takes a GPU that no other run has.
    code = launch(options.gpus, arguments)
    if code is not None:
        return code
    if options.coco is not None:
        from slimclr.stages.evaluate_detector import evaluate_detector

        evaluate_detector(
            options.weights,
            coco=options.coco,
            widths=options.widths,
            workers=options.workers,
            gpus=options.gpus,
            tf32=options.tf32,
            out=options.out,
            pictures=options.pictures,
        )
        return None
    from slimclr.stages.evaluate import Running, evaluate

    evaluate(
        options.weights,
        data=options.data,
        classifier=options.classifier,
        widths=options.widths,
        recalibrate_on=options.recalibrate,
        recalibrate_images=options.recalibrate_images,
        by_class=options.by_class,
        resize=options.resize,
        image_size=options.image_size,
        views=options.views,
        running=Running(options.batch, options.workers, options.loader, options.gpus, options.tf32),
        out=options.out,
    )
    return None


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and a detector where there is no mmdet."""
    if options.coco is None:
        if options.pictures is not None:
            raise UserError("--pictures: shows what a detector finds; give --coco, too, or leave it out")
        return
    for name in _OF_CLASSIFIERS:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: not for a detector (--coco); leave it out")
    if find_spec("mmdet") is None:
        raise UserError(
            "--coco: needs mmdet, which is not in this environment; call it as .venvs/detection/bin/slimclr"
        )


def _width(text: str) -> float:
    """An argument's type: a width multiplier."""
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0 < width <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no width; give numbers above 0 up to 1, for instance 1.0 0.25")
    return width
