"""`slimclr quick`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_frozen, add_scratch, add_training, gpus_of_node
from slimclr.config import Quick, parse_section

HELP = "Classify by nearest neighbours and ridge on frozen features of all widths; not the paper's protocol."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_training(parser, "quick")
    add_scratch(parser)
    add_frozen(parser)
    parser.add_argument("--out", type=Path, required=True, help="metrics.json to write")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    recipe = parse_section(Quick, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    gpus = gpus_of_node(options)
    code = launch(gpus, arguments, nodes=options.nodes)
    if code is not None:
        return code
    from slimclr.data.stores.staging import staged
    from slimclr.stages.quick import quick

    with staged(options.train, options.scratch) as train, staged(options.val, options.scratch) as val:
        quick(
            recipe,
            run=options.run,
            seed=options.seed,
            weights=options.weights,
            train=train,
            val=val,
            out=options.out,
            checkpoints=options.checkpoints,
            gpus=gpus,
        )
    return None
