"""`slimclr convert`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import at_least

HELP = "Put an extracted split into one LMDB."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--folder", type=Path, required=True, help="folder of the split, with manifest.parquet")
    parser.add_argument("--out", type=Path, required=True, help="the database, one file")
    parser.add_argument(
        "--shorter-side", type=at_least(1), help="scale larger images down to it; default: keep all bytes"
    )
    parser.add_argument(
        "--quality", type=at_least(1), default=90, help="JPEG quality of these, at most 95 (default 90)"
    )
    parser.add_argument("--jobs", type=at_least(1), help="threads that scale down (default: the cores)")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.data import convert

    sizes = {"shorter_side": options.shorter_side, "quality": options.quality, "jobs": options.jobs}
    convert(folder=options.folder, out=options.out, **sizes)
