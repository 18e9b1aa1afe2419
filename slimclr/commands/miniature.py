"""`slimclr miniature`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_seed

HELP = "Generate small archives and a small COCO."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_seed(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.miniature.write import write_miniature

    write_miniature(options.out, seed=options.seed)
