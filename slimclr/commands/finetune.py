"""`slimclr finetune`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_frozen, add_scratch, add_training, gpus_of_node
from slimclr.config import FineTune, parse_section

HELP = "Fine-tune a network with all labels or few, at one width, several or all, and evaluate it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_training(parser, "finetune")
    add_scratch(parser)
    add_frozen(parser)
    parser.add_argument("--names", type=Path, help="text file of the training images whose labels are used, one a line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    recipe = parse_section(FineTune, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    gpus = gpus_of_node(options)
    code = launch(gpus, arguments, nodes=options.nodes)
    if code is not None:
        return code
    from slimclr.data.stores.staging import staged
    from slimclr.stages.finetune import finetune

    with staged(options.train, options.scratch) as train, staged(options.val, options.scratch) as val:
        finetune(
            recipe,
            run=options.run,
            seed=options.seed,
            weights=options.weights,
            train=train,
            val=val,
            names=options.names,
            out=options.out,
            checkpoints=options.checkpoints,
            gpus=gpus,
        )
    return None
