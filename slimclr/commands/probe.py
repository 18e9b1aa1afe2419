"""`slimclr probe`."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from slimclr.commands.arguments import add_frozen, add_scratch, add_training, gpus_of_node
from slimclr.config import Probe, parse_section

HELP = "Train and evaluate linear probes of all widths."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_training(parser, "probe")
    add_scratch(parser)
    add_frozen(parser, train=False)
    parser.add_argument("--out", type=Path, required=True, help="metrics.json to write")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    recipe = parse_section(Probe, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    gpus = gpus_of_node(options)
    code = launch(gpus, arguments, nodes=options.nodes)
    if code is not None:
        return code
    from slimclr.data.stores.staging import staged
    from slimclr.stages.probe import probe

    training = staged(options.train, options.scratch) if options.train and recipe.epochs else nullcontext()
    with training as train, staged(options.val, options.scratch) as val:
        probe(
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
