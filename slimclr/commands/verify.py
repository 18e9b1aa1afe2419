"""`slimclr verify`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import IMAGES

HELP = "Check that a data set is whole."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("path", type=Path, metavar="PATH", help=IMAGES)
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.parquet to compare with")
    parser.add_argument("--content", action="store_true", help="compare the SHA-1 of every image, too")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.data.stores.verify import verify

    print(verify(options.path, manifest=options.manifest, content=options.content))
