"""Classifiers of a probe on disk: `classifier.safetensors`, a linear layer for every width."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimclr.errors import UserError
from slimclr.nn import SlimmableLinear, SwitchableLinear, width_key
from slimclr.nn.layers import used_slices
from slimclr.nn.weights import read_tensors, write_tensors

NAME = "classifier.safetensors"
_MEND = "give the classifier.safetensors of a probe"


@dataclass(frozen=True)
class Trained:
    """What a probe's classifiers were trained on.

    Attributes:
        classes: WordNet ids of the outputs, in their order.
        backbone_sha256: SHA-256 of the backbone's weights file.
        arch: The backbone's architecture.
        resize: The shorter side before the centre crop when they were evaluated, in pixels.
        image_size: Side of that crop.
        views: The probe's recipe of augmentation.
        batch: Images of a batch when they were evaluated.
        loader: Backend of the loader that read them.
    """

    classes: tuple[str, ...]
    backbone_sha256: str
    arch: str
    resize: int
    image_size: int
    views: str
    batch: int
    loader: str = "torchvision"


def save_classifier(
    path: Path | str, head: SlimmableLinear | SwitchableLinear, *, widths: Sequence[float], trained: Trained
) -> None:
    """Write a probe's classifiers, whole or not at all.

    The tensors are `<width>.weight` (classes, features of the width) and `<width>.bias` (classes,), with the width as
    `str(float)`; the header has what `Trained` has and `widths`, lists as JSON.

    Args:
        path: A `.safetensors` file.
        head: One layer for each width, or one that the widths share; its parts are written width by width.
        widths: Width multipliers.
        trained: What they were trained on.

    Raises:
        UserError: The disk is full, or refuses it otherwise.
    """
    tensors: dict[str, Tensor] = {}
    for width in widths:
        # The names of a switchable layer's parts begin with its width.
        parts = {name.rpartition(".")[2]: tensor for name, tensor in used_slices(head, width).items()}
        tensors |= {f"{width}.{kind}": parts[kind].clone() for kind in ("weight", "bias")}
    metadata = {key: str(value) for key, value in vars(trained).items()}
    lists = {"classes": json.dumps(trained.classes), "widths": json.dumps(list(widths))}
    write_tensors(path, tensors, metadata | lists)


def load_classifier(path: Path | str) -> tuple[SwitchableLinear, tuple[float, ...], Trained]:
    """Read what `save_classifier` wrote.

    Returns:
        One layer for each width, the widths from the widest down, and what they were trained on.

    Raises:
        UserError: No such file, not a classifier of a probe, or with numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such classifier; run the probe stage of this run first")
    tensors, metadata = read_tensors(path)
    try:
        trained, widths = _header(metadata)
    except (KeyError, ValueError, TypeError) as error:
        if "slimclr" in metadata:
            raise UserError(f"{path}: weights of a network, not a classifier; {_MEND}") from None
        raise UserError(f"{path}: its header lacks or garbles {error}; {_MEND}") from None
    names = {f"{width}.{kind}" for width in widths for kind in ("weight", "bias")}
    if not widths or tensors.keys() != names:
        wrong = sorted(tensors.keys() ^ names) or ["no width at all"]
        raise UserError(f"{path}: its tensors are not those of the widths in its header ({wrong[0]}); {_MEND}")
    return _layers(path, tensors, widths, len(trained.classes)), widths, trained


def _header(metadata: dict[str, str]) -> tuple[Trained, tuple[float, ...]]:
    """What the header says.

    Raises:
        KeyError: A key is missing.
        ValueError: A value is none of its kind.
        TypeError: The same.
    """
    values: dict[str, Any] = {key: metadata[key] for key in ("backbone_sha256", "arch", "views", "loader")}
    values |= {key: int(metadata[key]) for key in ("resize", "image_size", "batch")}
    values["classes"] = tuple(map(str, json.loads(metadata["classes"])))
    widths = tuple(sorted(map(float, json.loads(metadata["widths"])), reverse=True))
    return Trained(**values), widths


def _layers(path: Path, tensors: dict[str, Tensor], widths: Sequence[float], classes: int) -> SwitchableLinear:
    """The layers of all widths, with these tensors for parameters."""
    features = tensors[f"{widths[0]}.weight"].shape[-1] / widths[0]
    try:
        with torch.device("meta"):
            head = SwitchableLinear(round(features), classes, widths, fixed_out=True)
        state = {
            f"linears.{width_key(width)}.{kind}": tensors[f"{width}.{kind}"]
            for width in widths
            for kind in ("weight", "bias")
        }
        head.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: its tensors are not of the shapes that they need ({reason}); {_MEND}") from None
    return head
