"""`slimclr convert`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Put an extracted split into one LMDB."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--folder", type=Path, required=True, help="folder of the split, with manifest.parquet")
    parser.add_argument("--out", type=Path, required=True, help="the database, one file")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.data import convert

    convert(folder=options.folder, out=options.out)
