"""`slimclr recipe`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import REPOSITORY, add_config, at_least
from slimclr.config import load_config, load_recipe

HELP = "Show what a recipe becomes on a number of GPUs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("run", metavar="RUN", help="a recipe's name, or its file (.yaml)")
    parser.add_argument("--gpus", type=at_least(1), default=1, help="GPUs that train (default 1)")
    parser.add_argument("--images", type=at_least(1), default=1_281_167, help="training images (default: ImageNet's)")
    add_config(parser)


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.recipe import show_recipe

    path = Path(options.run)
    if path.suffix not in (".yaml", ".yml"):
        path = REPOSITORY / load_config(options.config).recipes / f"{options.run}.yaml"
    figures = REPOSITORY / "benchmarks/results"
    show_recipe(load_recipe(path), run=path.stem, gpus=options.gpus, images=options.images, figures=figures)
