"""`slimclr plan`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimclr.commands.arguments import REPOSITORY

HELP = "Forecast hours, requeues, disk and memory of all jobs, before anything is submitted."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("targets", nargs="*", default=["all"], metavar="TARGET", help="what to make (default: all)")
    default = REPOSITORY / "config" / "config.yaml"
    parser.add_argument("--config", "--configfile", type=Path, default=default, help="default: config/config.yaml")
    parser.add_argument(
        "--profile", default="local", help="local (default), slurm, or the folder of a Snakemake profile"
    )
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs of each node of a training (default: the profile's)"
    )
    parser.add_argument(
        "--time-limit", metavar="TIME", help="of a job: 24h, 90m or 2d (default: the profile's runtime)"
    )
    parser.add_argument("--rates", type=Path, metavar="FILE", help="YAML with rates that need not be measured")
    parser.add_argument("--no-measure", dest="measure", action="store_false", help="what is not stated stays unknown")
    parser.add_argument("--write-rates", type=Path, metavar="FILE", help="write the rates that were used")
    parser.add_argument(
        "--largest-batch", metavar="RUN", help="instead the largest batch of this run that fits into memory here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.plan import hours, largest_batch, plan

    if options.largest_batch is not None:
        largest_batch(options.largest_batch, config=options.config, root=REPOSITORY, gpus=options.gpus)
        return
    plan(
        options.targets,
        config=options.config,
        profile=options.profile,
        root=REPOSITORY,
        gpus=options.gpus,
        time_limit_h=None if options.time_limit is None else hours(options.time_limit),
        rates=options.rates,
        measured=options.measure,
        write=options.write_rates,
        as_json=options.json,
    )
