"""`slimclr check`."""

import argparse
from collections.abc import Sequence

from slimclr.commands.arguments import REPOSITORY, add_config
from slimclr.config import load_config, load_recipes

HELP = "Check a config and its recipes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_config(parser)


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    recipes = load_recipes(load_config(options.config), REPOSITORY)
    print(f"{options.config}: {len(recipes)} runs, no mistakes: {', '.join(recipes)}")
