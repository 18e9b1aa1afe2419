"""`slimclr recordio`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Put a data set into RecordIO files; needs mxnet, so run .venvs/recordio's."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--data", type=Path, required=True, help="images: an LMDB or a folder of classes")
    parser.add_argument("--out", type=Path, required=True, help="<name>.rec; <name>.idx and <name>.lst come beside it")
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="scale larger images down to this shorter side")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality of the images scaled down (default 95)")
    parser.add_argument(
        "--jobs", type=int, help="processes that read and resize (default: one per available core, at most 8)"
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.recordio import recordio

    recordio(data=options.data, out=options.out, resize=options.resize, quality=options.quality, jobs=options.jobs)
