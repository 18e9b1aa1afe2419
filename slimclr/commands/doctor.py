"""`slimclr doctor`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import REPOSITORY, add_config

HELP = "Look for what would stop a run on this machine; exit status 1 on a failure."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_config(parser)
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="node-local scratch (default: paths.scratch)")
    parser.add_argument(
        "--image",
        nargs="?",
        const=os.environ.get("SLIMCLR_IMAGE", ""),
        metavar="NAME",
        help="instead the self-test of the container image that this runs in (or of the environment NAME)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Run the command."""
    from slimclr.doctor import examine_image, examine_machine, show

    if options.image is not None:
        findings = examine_image(options.image)
    else:
        findings = examine_machine(config=options.config, scratch=options.scratch, root=REPOSITORY)
    return show(findings, as_json=options.json)
