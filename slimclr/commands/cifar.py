"""`slimclr cifar`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Put CIFAR-10 into train.lmdb and val.lmdb."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        help="cifar-10-python.tar.gz or its folder; or images as train/<class>/, test/<class>/ in a folder, tar or zip",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for train.lmdb and val.lmdb")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.cifar import cifar

    cifar(source=options.source, out=options.out)
