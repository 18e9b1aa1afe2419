"""`slimclr transfer`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_training, gpus_of_node
from slimclr.config import Detection, parse_section

HELP = "Fine-tune Mask R-CNN on COCO and evaluate every width."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_training(parser, "detection", "a config")
    parser.add_argument("--weights", type=Path, required=True, help="weights.safetensors of the run")
    parser.add_argument("--coco", type=Path, required=True, help="folder with annotations/, train2017/, val2017/")
    parser.add_argument("--out", type=Path, required=True, help="metrics.json to write")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    recipe = parse_section(Detection, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    code = launch(gpus_of_node(options), arguments, nodes=options.nodes)
    if code is not None:
        return code
    from slimclr.stages.transfer import transfer

    transfer(
        recipe,
        run=options.run,
        seed=options.seed,
        weights=options.weights,
        coco=options.coco,
        out=options.out,
        checkpoints=options.checkpoints,
    )
    return None
