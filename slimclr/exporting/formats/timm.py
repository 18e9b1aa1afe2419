"""timm: a folder that `timm.create_model("local-dir:...", pretrained=True)` loads, and the hub's scheme likewise."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slimclr.errors import UserError
from slimclr.exporting.packages import needed
from slimclr.exporting.source import Preprocessing

# timm's plain stem, a 7x7 convolution, has these channels whatever its arguments say.
_STEM = 64
_NAMES: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet26",
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}


def write_timm(
    state: Mapping[str, Tensor],
    network: Mapping[str, Any],
    folder: Path,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
) -> list[str]:
    """Write config.json and model.safetensors.

    timm's ResNet takes the channels of the stages, but not those of the first convolution, and leaves out the first
    shortcut's convolution where its output has as many channels. There the tensors are filled up with zeros, which
    changes no output.

    Args:
        state: The plain network's tensors.
        network: The arguments of `plain.ResNet`.
        folder: Where to write.
        classes: Names of the outputs; empty: features.
        preprocessing: What is done with an image first.

    Returns:
        What the network costs more, a sentence each.

    Raises:
        UserError: timm is missing, or its ResNet cannot be this network.
    """
    timm = needed("timm", by="--format timm")
    _check(network)
    name, arguments, notes = _arguments(tuple(network["layers"]), int(network["channels"]))
    model = timm.create_model(name, num_classes=len(classes), **arguments)
    tensors = padded(state, model.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architecture": name,
        "num_classes": len(classes),
        "num_features": model.num_features,
        "model_args": arguments,
        "pretrained_cfg": _pretrained(classes, preprocessing),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return notes


def _arguments(layers: tuple[int, ...], channels: int) -> tuple[str, dict[str, Any], list[str]]:
    """Timm's name of a network, the arguments beside it, and what it costs more."""
    arguments: dict[str, Any] = {} if layers in _NAMES else {"layers": list(layers)}
    planes, notes = [channels * 2**stage for stage in range(len(layers))], []
    if channels < _STEM:
        notes.append(f"timm's first convolution has {_STEM} channels: {_STEM - channels} of them are zeros")
    if channels != _STEM and 4 * channels == _STEM:
        planes[0] += 1
        notes.append(
            f"with {channels} channels timm's first block would have no convolution on its shortcut: it has "
            f"{planes[0]}, one of them zeros"
        )
    if channels != _STEM:
        arguments["channels"] = planes
    return _NAMES.get(layers, "resnet50"), arguments, notes


def _pretrained(classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """What timm calls a pre-trained network's config."""
    crop = preprocessing.crop
    return {
        "num_classes": len(classes),
        "input_size": [3, crop, crop],
        "pool_size": [-(-crop // 32)] * 2,
        "crop_pct": crop / (preprocessing.resize or crop),
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "first_conv": "conv1",
        "classifier": "fc",
        **({"label_names": list(classes)} if classes else {}),
    }


def _check(network: Mapping[str, Any]) -> None:
    """Refuse what timm's ResNet cannot be."""
    why = ""
    if network["small_images"]:
        why = "the first convolution is 3x3 without pooling (CIFAR's networks)"
    elif network["channels"] > _STEM:
        why = f"the first convolution has {network['channels']} channels, timm's {_STEM}"
    elif network["folded"]:
        why = "batch norm is folded"
    if why:
        raise UserError(f"--format timm: timm's ResNet cannot be this network: {why}; leave timm out of --format")


def padded(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors filled up with zeros (variances with ones) to the shapes of others; the names must be the same."""
    filled = {}
    for name, target in like.items():
        value = torch.ones_like(target) if name.endswith("running_var") else torch.zeros_like(target)
        own = state[name]
        value[tuple(slice(size) for size in own.shape)] = own
        filled[name] = value
    return filled


def load_timm(folder: Path) -> nn.Module:
    """The network of such a folder, in eval mode."""
    timm = needed("timm", by="--format timm")
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()
