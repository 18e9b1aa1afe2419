"""`slimclr schema`."""

import argparse
import json
from collections.abc import Sequence

from slimclr.config import json_schema

HELP = "Print the JSON schema of config and recipes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--markdown", action="store_true", help="print config/README.md instead")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.config.docs import markdown

    print(markdown() if options.markdown else json.dumps(json_schema(), indent=2), end="" if options.markdown else "\n")
