"""A trained detector as files: its tensors, and mmengine's configuration without which they are no network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from slimclr.detection import backbone, detector  # noqa: F401 - puts them into mmengine's registries
from slimclr.detection.detector import SlimmableMaskRCNN
from slimclr.errors import UserError
from slimclr.files import write_json
from slimclr.nn.weights import read_tensors, write_tensors

TENSORS, CONFIG = "detector.safetensors", "config.json"
_HEADER = "slimclr_detector"
_MODULES = ["slimclr.detection.backbone", "slimclr.detection.detector"]


def save_detector(
    folder: Path, model: nn.Module, config: Config, *, shape: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    """Write `detector.safetensors` and `config.json`.

    The configuration is JSON, as mmengine's Python files are programs. It builds the backbone from its shape, so that
    the two files need no others.

    Args:
        folder: Where they go.
        model: The trained detector.
        config: What it was trained with.
        shape: `SlimmableResNet.shape` of its backbone.
        header: What is said in the tensors' file.

    Raises:
        UserError: The disk is full, or refuses it otherwise.
    """
    values = config.to_dict()
    values["model"]["backbone"] = {"type": "SlimmableBackbone", "shape": dict(shape)}
    values["custom_imports"] = {"imports": _MODULES, "allow_failed_imports": False}
    write_tensors(folder / TENSORS, model.state_dict(), {_HEADER: json.dumps(dict(header))})
    write_json(folder / CONFIG, values)


def load_detector(folder: Path) -> SlimmableMaskRCNN:
    """The detector that `save_detector` wrote, in eval mode, on the CPU.

    Raises:
        UserError: A file is missing or of another kind, or the two do not fit each other.
    """
    for name in (TENSORS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; run the transfer stage of this run first")
    tensors, metadata = read_tensors(folder / TENSORS)
    if _HEADER not in metadata:
        raise UserError(f"{folder / TENSORS}: not a detector of this pipeline; run the transfer stage again")
    try:
        model: SlimmableMaskRCNN = MODELS.build(Config.fromfile(folder / CONFIG).model)
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: {TENSORS} and {CONFIG} do not fit each other ({reason}); run it again") from None
    return model.eval()
