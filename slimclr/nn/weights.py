"""Weights on disk: safetensors with a header that says which network they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimclr.errors import UserError
from slimclr.files import atomic_path
from slimclr.nn.resnet import SlimmableResNet, build_backbone

BACKBONE = "backbone."


def save_weights(path: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a header, whole or not at all.

    Args:
        path: A `.safetensors` file.
        tensors: Named tensors; the backbone's names start with `backbone.`.
        meta: Header; `SlimmableResNet.shape` is needed to build the backbone again.
    """
    write_tensors(path, tensors, {"slimclr": json.dumps(dict(meta))})


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote.

    Returns:
        Tensors by name, and the header.

    Raises:
        UserError: No such file, not safetensors, not written by this project, or with numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; run the pretrain stage of this run first")
    tensors, metadata = read_tensors(path)
    if "slimclr" not in metadata:
        raise UserError(f"{path}: has no slimclr header; only weights written by this pipeline can be read here")
    try:
        header = json.loads(metadata["slimclr"])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{path}: its header is damaged; delete it and rerun its stage")
    return tensors, header


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts, whole or not at all.

    Args:
        path: A `.safetensors` file.
        tensors: Named tensors, on any device.
        metadata: Texts by name.

    Raises:
        UserError: The disk is full, or refuses it otherwise.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as part:
        try:
            save_file(contiguous, part, dict(metadata))
        except SafetensorError as error:
            raise UserError(
                f"{path}: not written ({error}); free space, or mend that, and run this stage again"
            ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote.

    Raises:
        UserError: Not a whole safetensors file, or with numbers that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); delete it and rerun its stage") from None
    for name, tensor in tensors.items():
        if count := int((~torch.isfinite(tensor)).sum()):
            raise UserError(
                f"{path}: {name} is not finite ({count:,} of {tensor.numel():,} values); delete it and rerun its stage"
            )
    return tensors, metadata


def load_backbone(path: Path | str) -> tuple[SlimmableResNet, dict[str, Any]]:
    """Build the backbone that a weights file holds; every tensor must be there and fit.

    Returns:
        The network in eval mode, on the CPU, and the file's header.

    Raises:
        UserError: See `read_weights`; also when a backbone tensor is missing, unexpected or of another shape.
    """
    tensors, meta = read_weights(path)
    overlap = meta.get("overlap", True)
    try:
        backbone = build_backbone(meta["depth"], meta["base_width"], meta["widths"], overlap=overlap)
    except (KeyError, TypeError, ValueError) as error:
        line = f"its header names no network ({type(error).__name__}: {error}); delete it and rerun its stage"
        raise UserError(f"{path}: {line}") from None
    state = {name.removeprefix(BACKBONE): tensor for name, tensor in tensors.items() if name.startswith(BACKBONE)}
    try:
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit {backbone.arch}: {' '.join(str(error).split())}") from None
    return backbone.eval(), meta
