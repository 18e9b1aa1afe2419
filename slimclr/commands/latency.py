"""`slimclr latency`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import add_source, at_least, width_multiplier

HELP = "Measure milliseconds per image and images per second of every width on this machine."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    add_source(parser, exported=False)
    parser.add_argument("--name", dest="run", help="the run's name in the JSON (default: the weights')")
    parser.add_argument("--width", type=width_multiplier, nargs="+", help="one or several (default: all trained)")
    parser.add_argument(
        "--batch", type=at_least(1), nargs="+", default=[1, 16], metavar="N", help="images of a pass (default 1 16)"
    )
    parser.add_argument(
        "--engine", choices=("eager", "compiled", "onnxruntime"), nargs="+", default=["eager"], help="default: eager"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), nargs="+", default=["fp32"], help="default: fp32"
    )
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="on the CPU (default: torch's choice)")
    parser.add_argument(
        "--repeats", type=at_least(1), default=20, metavar="N", help="samples, of which the median counts (default 20)"
    )
    parser.add_argument("--image-size", type=at_least(32), metavar="PIXELS", help="side (default: the run's)")
    parser.add_argument("--gpus", type=at_least(0, 1), default=0, help="1: on a GPU; 0 is the CPU (default)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="metrics.json to write")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    """Run the command."""
    from slimclr.engine.distributed import launch

    # It takes a GPU that no other run has.
    code = launch(options.gpus, arguments)
    if code is not None:
        return code
    from slimclr.stages.latency import latency

    latency(
        options.source,
        out=options.out,
        run=options.run,
        widths=options.width,
        batches=options.batch,
        engines=options.engine,
        precisions=options.precision,
        threads=options.threads,
        repeats=options.repeats,
        image_size=options.image_size,
        gpus=options.gpus,
        results=options.results,
    )
    return None
