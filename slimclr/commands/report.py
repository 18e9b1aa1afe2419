"""`slimclr report`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from slimclr.errors import UserError

HELP = "Write tables, figures and the page over all runs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--config", required=True, help="JSON with name, config, recipes and absent checkpoints")
    parser.add_argument("--results", type=Path, required=True, help="folder with pretrain/, probe/, ...")
    parser.add_argument(
        "--references",
        type=Path,
        nargs="+",
        required=True,
        help="published figures (YAML), a later file's before an earlier's",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--partial", action="store_true", help="leave out, and name, what has no result yet")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.config import Config, Recipe
    from slimclr.stages.report import report

    try:
        document = json.loads(options.config)
        config = Config.model_validate(document["config"])
        recipes = {run: Recipe.model_validate(recipe) for run, recipe in document["recipes"].items()}
        name = str(document["name"])
        absent = {str(run): str(fault) for run, fault in document.get("absent", {}).items()}
        if set(recipes) != set(config.runs):
            raise ValueError("the recipes are not those of the config's runs")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"--config: not JSON with a valid config, recipes and name ({type(error).__name__}: {cause}); let "
            "Snakemake run this stage, which passes it"
        ) from error
    report(
        config,
        recipes,
        config_name=name,
        results=options.results,
        references=options.references,
        out=options.out,
        absent=absent,
        partial=options.partial,
    )
