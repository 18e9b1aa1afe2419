"""`slimclr export`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import IMAGES, add_source, at_least, width_multiplier
from slimclr.errors import UserError

HELP = "Take one width away: plain weights, ONNX, int8, torch.export, timm, mmdet, with a model card; or of a detector."

# Options that a detector, which is always for mmdet, has no use for.
_OF_NETWORKS = ("classifier", "recalibrate", "fold", "data", "val", "metrics")
FORMATS = ("torchvision", "timm", "onnx", "int8", "pt2", "mmdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_source(parser, exported=False)
    parser.add_argument("--classifier", type=Path, metavar="FILE", help="the probe's (default: that of the run)")
    parser.add_argument("--width", type=width_multiplier, required=True, help="which one")
    parser.add_argument(
        "--head",
        choices=("own", "probe", "none"),
        default="none",
        help="none: features (default); own: a supervised network's classifier; probe: the linear probe's",
    )
    parser.add_argument(
        "--format",
        dest="formats",
        choices=FORMATS,
        nargs="+",
        default=["torchvision"],
        help="besides plain weights, which are always written",
    )
    parser.add_argument(
        "--recalibrate", type=Path, metavar="DATA", help="training images, for a width that was never trained"
    )
    parser.add_argument("--fold", action="store_true", help="fold batch norm into the convolutions")
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace an earlier export there")
    parser.add_argument(
        "--data", type=Path, help=f"photos to compare on and to calibrate int8: a file, a folder, a list, {IMAGES}"
    )
    parser.add_argument(
        "--calibrate", type=at_least(1), default=300, metavar="N", help="photos that calibrate int8 (default 300)"
    )
    parser.add_argument("--val", type=Path, help=f"labelled images for the accuracy of int8: {IMAGES}")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="accuracies for the card (default: the probe's)")
    parser.add_argument("--no-card", dest="card", action="store_false", help="no README.md")
    parser.add_argument(
        "--licence", default="unknown", help="of the weights, as the Hugging Face hub names licences (default: unknown)"
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.detection.kept_files import is_detector

    if is_detector(Path(options.source)):
        _export_detector(options)
        return
    from slimclr.stages.export import export

    export(
        options.source,
        options.out,
        width=options.width,
        head=options.head,
        formats=options.formats,
        fold=options.fold,
        recalibrate=options.recalibrate,
        results=options.results,
        classifier=options.classifier,
        data=options.data,
        calibrate=options.calibrate,
        val=options.val,
        card=options.card,
        metrics=options.metrics,
        licence=options.licence,
        force=options.force,
    )


def _export_detector(options: argparse.Namespace) -> None:
    given = [f"--{name}" for name in _OF_NETWORKS if getattr(options, name)]
    given += ["--head"] * (options.head != "none")
    given += ["--format"] * (options.formats not in (["torchvision"], ["mmdet"]))
    if given:
        raise UserError(f"{options.source}: is a detector, for which {given[0]} means nothing; leave it out")
    from slimclr.stages.export_detector import export_detector

    export_detector(Path(options.source), options.out, width=options.width, force=options.force)
