"""`slimclr compare`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Lay two folders of results side by side: figures, differences, what differs in the recipes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("a", type=Path, metavar="A", help="a folder of results, with pretrain/, probe/, ...")
    parser.add_argument("b", type=Path, metavar="B", help="another one")
    parser.add_argument("--run", nargs="+", metavar="RUN", help="runs to compare (default: all that both have)")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.reporting.compare import compare

    print(compare(options.a, options.b, runs=options.run))
