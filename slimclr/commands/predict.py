"""`slimclr predict`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_photos, at_least, width_multiplier

HELP = "Name the classes that a network sees in photos, at one or several widths."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_photos(parser)
    parser.add_argument("--width", type=width_multiplier, nargs="+", help="one or several (default: all there are)")
    parser.add_argument(
        "--head", choices=("own", "probe"), help="default: the weights' own classifier, or else the probe's"
    )
    parser.add_argument("--classifier", type=Path, metavar="FILE", help="the probe's (default: that of the run)")
    parser.add_argument("--top", type=at_least(1), default=5, metavar="K", help="classes of each photo (default 5)")
    parser.add_argument("--names", type=Path, metavar="FILE", help="lines of a class and its name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .csv or .parquet (default: CSV on stdout)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    from slimclr.engine.distributed import launch

    # It takes a GPU that no other run has.
    code = launch(options.gpus, arguments)
    if code is not None:
        return code
    from slimclr.exporting.passes import Running
    from slimclr.stages.predict import predict

    predict(
        options.source,
        options.photos,
        out=options.out,
        widths=options.width,
        head=options.head,
        classifier=options.classifier,
        top=options.top,
        names=options.names,
        results=options.results,
        running=Running(options.batch, options.workers, options.gpus, options.strict),
    )
    return None
