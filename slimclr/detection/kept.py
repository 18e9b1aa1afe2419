"""A trained detector as files: its tensors, and mmengine's configuration without which they are no network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from slimclr.detection import backbone, detector  # noqa: F401 - puts them into mmengine's registries
from slimclr.detection.detector import SlimmableMaskRCNN
from slimclr.detection.kept_files import CONFIG, HEADER, TENSORS, Kept, read_kept
from slimclr.errors import UserError
from slimclr.files import write_json
from slimclr.nn.weights import write_tensors

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
    trained = values["model"]["backbone"].get("trained")
    values["model"]["backbone"] = {"type": "SlimmableBackbone", "shape": dict(shape), "trained": trained}
    values["custom_imports"] = {"imports": _MODULES, "allow_failed_imports": False}
    write_tensors(folder / TENSORS, model.state_dict(), {HEADER: json.dumps(dict(header))})
    write_json(folder / CONFIG, values)


def build_detector(model: Mapping[str, Any]) -> SlimmableMaskRCNN:
    """The detector of a configuration's section `model`, as initialised."""
    # mmdet's classes ask mmengine's registry for others, which looks where a runner would have told it to.
    init_default_scope("mmdet")
    built: SlimmableMaskRCNN = MODELS.build(ConfigDict(model))
    return built


def load_detector(path: Path) -> SlimmableMaskRCNN:
    """The detector that `save_detector` wrote, in eval mode, on the CPU.

    Args:
        path: As for `slimclr.detection.kept_files.read_kept`.

    Raises:
        UserError: A file is missing or of another kind, or the two do not fit each other.
    """
    return build_kept(read_kept(path))


def build_kept(kept: Kept) -> SlimmableMaskRCNN:
    """The detector of files that were read, in eval mode, on the CPU.

    Raises:
        UserError: Tensors and configuration do not fit each other.
    """
    try:
        model = build_detector(kept.config["model"])
        model.load_state_dict(kept.tensors)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{kept.folder}: {TENSORS} and {CONFIG} do not fit each other ({reason}); run it again"
        ) from None
    return model.eval()
