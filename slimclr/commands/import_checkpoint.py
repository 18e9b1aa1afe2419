"""`slimclr import`."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from slimclr.commands.arguments import IMAGES, SECTION
from slimclr.config import Checkpoint, parse_section
from slimclr.errors import UserError

HELP = "Let a checkpoint of the reference implementation replace a run's pre-training."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="its .pth.tar, of pre-training or of a linear probe; or .safetensors"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="the run's folder results/pretrain/<run>, or weights.safetensors in it; another .safetensors: that alone",
    )
    parser.add_argument("--name", dest="run", metavar="RUN", help="the run's name (default: the folder's)")
    parser.add_argument(
        "--recipe", help=f"what the file must be, as Snakemake passes it on: {SECTION.format('a recipe', 'checkpoint')}"
    )
    parser.add_argument(
        "--detector",
        action="store_true",
        help="FILE is the released Mask R-CNN; FOLDER gets detector.safetensors, for evaluate --coco and export",
    )
    parser.add_argument(
        "--no-hash-check", dest="hash_check", action="store_false", help="accept a hash that does not fit"
    )
    parser.add_argument("--val", type=Path, metavar="DATA", help=f"photos to try its classifier on: {IMAGES}")
    parser.add_argument(
        "--photos", type=int, default=200, metavar="N", help="photos to try, over all classes (default 200)"
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    if options.detector:
        _import_detector(options)
        return
    recipe = parse_section(Checkpoint, options.recipe) if options.recipe else None
    from slimclr.stages.import_checkpoint import import_checkpoint

    import_checkpoint(
        options.file,
        out=options.out,
        run=options.run,
        recipe=recipe,
        hash_check=options.hash_check,
        val=options.val,
        photos=options.photos,
    )


def _import_detector(options: argparse.Namespace) -> None:
    for name in ("recipe", "val"):
        if getattr(options, name):
            raise UserError(f"--{name}: not for a detector (--detector); leave it out")
    if find_spec("mmdet") is None:
        raise UserError(
            "--detector: needs mmdet, which is not in this environment; call it as .venvs/detection/bin/slimclr"
        )
    from slimclr.stages.import_detector import import_detector

    import_detector(options.file, out=options.out, run=options.run, hash_check=options.hash_check)
