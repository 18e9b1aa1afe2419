"""`slimclr features`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_photos, width_multiplier

HELP = "Write features of photos: after pooling, or of a named stage, of one or several widths."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_photos(parser)
    parser.add_argument("--width", type=width_multiplier, nargs="+", help="one or several (default: all there are)")
    parser.add_argument("--stage", dest="layer", metavar="LAYER", help="layer1 to layer4 (default: the last one)")
    parser.add_argument("--maps", action="store_true", help="whole maps instead of their average over positions")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", required=True, help="a .csv, .parquet, .npy or .safetensors"
    )


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    from slimclr.engine.distributed import launch

    # It takes a GPU that no other run has.
    code = launch(options.gpus, arguments)
    if code is not None:
        return code
    from slimclr.exporting.passes import Running
    from slimclr.stages.features import features

    features(
        options.source,
        options.photos,
        out=options.out,
        widths=options.width,
        layer=options.layer,
        maps=options.maps,
        results=options.results,
        running=Running(options.batch, options.workers, options.gpus, options.strict),
    )
    return None
