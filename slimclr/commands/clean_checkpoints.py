"""`slimclr clean-checkpoints`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Free checkpoints that finished stages no longer need."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder with <stage>/<run>/")
    parser.add_argument("--results", type=Path, required=True, help="folder with <stage>/<run>/metrics.json")
    parser.add_argument("--dry-run", action="store_true", help="only show sizes")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.checkpoints import clean_checkpoints

    clean_checkpoints(checkpoints=options.checkpoints, results=options.results, dry_run=options.dry_run)
