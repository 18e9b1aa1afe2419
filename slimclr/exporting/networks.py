"""Plain networks of some widths, from slimmable weights or from a folder that was exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from slimclr.errors import UserError
from slimclr.exporting.extract import extract
from slimclr.exporting.plain import ResNet
from slimclr.exporting.plain import load as load_plain
from slimclr.exporting.source import (
    HeadKind,
    Preprocessing,
    check_classified,
    open_source,
    read_head,
)
from slimclr.files import read_object

CONFIG = "config.json"


@dataclass(frozen=True)
class Networks:
    """Networks of one origin.

    Attributes:
        by_width: Plain networks in eval mode, from the widest down.
        classes: Names of their outputs; empty where they give features.
        preprocessing: What is done with an image first.
    """

    by_width: dict[float, ResNet]
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def is_exported(folder: str | Path) -> bool:
    """Whether a folder was written by `slimclr export`."""
    return "network" in (read_object(Path(folder) / CONFIG) or {})


def open_networks(
    source: str | Path,
    *,
    widths: Sequence[float] | None = None,
    head: HeadKind = "none",
    results: Path = Path("results"),
    classifier: Path | None = None,
) -> Networks:
    """Networks of some widths.

    Args:
        source: What `open_source` takes, or an exported folder, which has its one width and its head.
        widths: Which; None: all there are.
        head: Which classifier, see `read_head`.
        results: Folder with pretrain/ and probe/.
        classifier: The probe's classifier.safetensors.

    Raises:
        UserError: No such weights, width or classifier.
    """
    if is_exported(source):
        return _open_exported(Path(source), widths, head)
    opened = open_source(source, results=results)
    found = read_head(opened, head, file=classifier)
    layers, classes = (None, ()) if found is None else (found.head, found.classes)
    trained = opened.backbone.widths if found is None else found.widths
    wanted = sorted(set(trained if widths is None else widths), reverse=True)
    check_classified(opened, found, wanted)
    networks = {width: extract(opened.backbone, width, layers) for width in wanted}
    return Networks(networks, classes, (found and found.preprocessing) or opened.preprocessing)


def _open_exported(folder: Path, widths: Sequence[float] | None, head: HeadKind) -> Networks:
    config = read_object(folder / CONFIG) or {}
    try:
        network, width = load_plain(folder), float(config["width"])
        classes = tuple(map(str, config["classes"]))
        view = config["preprocessing"]
        preprocessing = Preprocessing(
            view["resize"], view["crop"], tuple(view["mean"]), tuple(view["std"]), view["interpolation"]
        )
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{folder}: not a whole export ({reason[:200]}); export it again") from None
    if widths is not None and set(widths) != {width}:
        raise UserError(f"{folder}: width {width} was exported, not {', '.join(map(str, widths))}; leave --width out")
    if head != "none" and not classes:
        raise UserError(f"{folder}: exported without a classifier; export it again with --head own or --head probe")
    return Networks({width: network}, classes, preprocessing)
