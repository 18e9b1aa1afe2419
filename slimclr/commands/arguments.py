"""Arguments that commands share."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimclr.machine import gres_gpus

REPOSITORY = Path(__file__).resolve().parents[2]

SECTION = "JSON, or a YAML file; of {}'s file the section {} is taken"

IMAGES = "an LMDB, RecordIO files (.rec) or a folder of classes"

_SETTINGS = '{"my_run": {"workers": 4}}'


def gpus_of_node(options: argparse.Namespace) -> int:
    """GPUs of each node, however they were asked for."""
    return gres_gpus(options.gres) if options.gres else options.gpus


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argument's type: a whole number, not below `least`, and not above `most` where that is given."""
    wanted = f"{least} or more" if most is None else f"from {least} to {most}"

    def number(text: str) -> int:
        whole = text.lstrip("-").isdecimal()
        if not whole or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} does not do; give a whole number, {wanted}")
        return int(text)

    return number


def width_multiplier(text: str) -> float:
    """An argument's type: a width multiplier."""
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0 < width <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no width; give a number above 0 up to 1, for instance 0.25")
    return width


def add_seed(parser: argparse.ArgumentParser) -> None:
    """The seed, within what NumPy takes."""
    parser.add_argument("--seed", type=at_least(0, 2**32 - 1), default=0, help="seed (default 0)")


def settings_json(text: str) -> dict[str, dict[str, Any]]:
    """An argument's type: a JSON object of objects."""
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or not all(isinstance(value, dict) for value in settings.values()):
        raise argparse.ArgumentTypeError(f"{text!r} does not do; give JSON, for instance {_SETTINGS}")
    return settings


def add_training(parser: argparse.ArgumentParser, section: str, whole: str = "a recipe") -> None:
    """Options of every training; `section` is the part of the recipe, or of `whole`, that it takes."""
    parser.add_argument("--recipe", required=True, help=f"this stage's settings: {SECTION.format(whole, section)}")
    parser.add_argument(
        "--settings",
        type=settings_json,
        default={},
        metavar="JSON",
        help="run -> settings that take the place of the recipe's; Snakemake passes those that change no result so",
    )
    parser.add_argument("--name", dest="run", required=True, help="the run's name")
    add_seed(parser)
    parser.add_argument(
        "--gpus", type=at_least(0), default=0, help="GPUs of each node, one process each; 0 is the CPU (default)"
    )
    parser.add_argument("--gres", default="", help="the same as Slurm's --gres says it, for instance gpu:4")
    parser.add_argument(
        "--nodes", type=at_least(1), default=1, help="nodes of the Slurm job that this runs in (default 1)"
    )
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of rolling checkpoints")


def add_frozen(parser: argparse.ArgumentParser, *, train: bool = True) -> None:
    """A trained network, what is trained on top of it, and what that is evaluated on; `train`: images are needed."""
    only = "" if train else ", where there are epochs"
    parser.add_argument("--weights", type=Path, required=True, help="weights.safetensors of the run")
    parser.add_argument("--train", type=Path, required=train, help=f"training images{only}: {IMAGES}")
    parser.add_argument("--val", type=Path, required=True, help=f"validation images: {IMAGES}")


def add_scratch(parser: argparse.ArgumentParser) -> None:
    """Where images are copied to before they are read."""
    parser.add_argument(
        "--scratch", metavar="FOLDER", help="on this node's own disk: copy the LMDB there and read the copy"
    )


def add_source(parser: argparse.ArgumentParser, *, exported: bool) -> None:
    """Where a network comes from; `exported`: also from a folder of `slimclr export`."""
    also = ", or a folder that slimclr export wrote" if exported else ""
    parser.add_argument("source", metavar="RUN_OR_WEIGHTS", help=f"a run's name or folder, or a weights file{also}")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where a run's name is looked for (default: results)"
    )


def add_photos(parser: argparse.ArgumentParser) -> None:
    """A network, photos, and how they are read."""
    add_source(parser, exported=True)
    parser.add_argument(
        "photos", type=Path, metavar="PHOTOS", help="an image, a folder, a list of paths (.txt), an .lmdb or a .rec"
    )
    parser.add_argument("--strict", action="store_true", help="an image that cannot be read is an error")
    parser.add_argument("--batch", type=at_least(1), default=64, help="images of a batch (default 64)")
    parser.add_argument("--workers", type=at_least(0), default=2, help="processes that decode (default 2)")
    parser.add_argument("--gpus", type=at_least(0, 1), default=0, help="1: on a GPU; 0 is the CPU (default)")


def add_config(parser: argparse.ArgumentParser) -> None:
    """The config."""
    default = REPOSITORY / "config" / "config.yaml"
    parser.add_argument("--config", type=Path, default=default, help="default: config/config.yaml")
