"""`slimclr pretrain`."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from slimclr.commands.arguments import IMAGES, add_scratch, add_training, gpus_of_node
from slimclr.config import Pretrain, parse_section

HELP = "Pre-train a slimmable network."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_training(parser, "pretrain")
    add_scratch(parser)
    parser.add_argument("--data", type=Path, help=f"training images: {IMAGES}")
    parser.add_argument(
        "--val",
        type=Path,
        help="the probe's validation images; their classes are compared, and a recipe's `validation` uses them",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--paper", action="store_true", help="the recipe is the paper's")
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="go on from this one (default: the newest of this recipe)"
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="what the recipe's init stands for: weights.safetensors of a run, or with init_take: state its "
        "state.safetensors",
    )


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    recipe = parse_section(Pretrain, options.recipe, options.settings.get(options.run, {}))
    from slimclr.data.archives.classes import check_data_sets
    from slimclr.engine.distributed import launch

    # A random backbone is drawn, not trained: one process on the CPU.
    drawn = recipe.method.name == "random"
    if options.data is not None and options.val is not None and not drawn:
        check_data_sets(options.data, options.val)
    gpus, nodes = (0, 1) if drawn else (gpus_of_node(options), options.nodes)
    code = launch(gpus, arguments, nodes=nodes)
    if code is not None:
        return code
    from slimclr.data.stores.staging import staged
    from slimclr.stages.pretrain import pretrain

    with nullcontext() if options.data is None else staged(options.data, options.scratch) as data:
        pretrain(
            recipe,
            run=options.run,
            seed=options.seed,
            data=data,
            out=options.out,
            checkpoints=options.checkpoints,
            gpus=gpus,
            paper=options.paper,
            resume=options.resume,
            init=options.init,
            val=options.val,
        )
    return None
