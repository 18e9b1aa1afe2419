"""`slimclr miniature`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Generate small archives and a small COCO."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--seed", type=int, default=0, help="seed (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.miniature.write import write_miniature

    write_miniature(options.out, seed=options.seed)
