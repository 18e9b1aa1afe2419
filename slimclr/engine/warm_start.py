"""What a training begins with instead of drawn weights, and what it leaves for others to begin with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimclr.errors import UserError
from slimclr.methods import Method
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import BACKBONE, read_tensors, read_weights, write_tensors

STATE = "state.safetensors"
_METHOD, _OPTIMIZER, _HEADER = "method.", "optimizer.", "slimclr_state"
_SHOWN = 10


def begin_with_weights(method: Method, backbone: SlimmableResNet, weights: Path, *, head: bool) -> None:
    """Copy a weights file's backbone into a method, all of it or nothing.

    Args:
        method: What is going to be trained.
        backbone: Its backbone.
        weights: `weights.safetensors` of a run, or an imported one.
        head: Copy the head, too.

    Raises:
        UserError: No such file or not one of weights, or something does not fit; with the list.
    """
    tensors, header = read_weights(weights)
    wanted = {name: tensor for name, tensor in method.exported().items() if head or name.startswith(BACKBONE)}
    given = {name: tensor for name, tensor in tensors.items() if head or name.startswith(BACKBONE)}
    faults = _differences(given, wanted)
    if header.get("overlap", True) != backbone.overlap:
        faults.insert(0, f"its sub-networks {'share' if not backbone.overlap else 'do not share'} channels")
    _refuse(weights, faults, "take the backbone alone (init_take), or name weights of the same network")
    method.begin_with(given)


def save_state(path: Path, method: Method, optimizer: torch.optim.Optimizer, meta: Mapping[str, Any]) -> None:
    """Write all that a training has: networks, key encoder, queue, predictor and the optimiser's buffers.

    Args:
        path: `state.safetensors`; its tensors are `method.<name>` and `optimizer.<parameter>.<buffer>`.
        method: What was trained.
        optimizer: Of `method.trainable()`.
        meta: Header.

    Raises:
        UserError: The disk is full, or refuses it otherwise.
    """
    tensors = {f"{_METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    for name, parameter in method.trainable().named_parameters():
        for kind, buffer in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{name}.{kind}"] = buffer
    write_tensors(path, tensors, {_HEADER: json.dumps(dict(meta))})


@torch.no_grad()
def begin_with_state(method: Method, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Go on with what `save_state` wrote, at the first step of another training.

    Args:
        method: What is going to be trained, of the same method and network, on its device.
        optimizer: Of `method.trainable()`.
        path: The file.

    Raises:
        UserError: No such file or not such a one, or something does not fit; with the list.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such state; set keep_state: true in the recipe of that run, and run it first")
    tensors, metadata = read_tensors(path)
    if _HEADER not in metadata:
        raise UserError(f"{path}: not a training's state; init_take: state takes the {STATE} that keep_state wrote")
    state = {name.removeprefix(_METHOD): tensor for name, tensor in tensors.items() if name.startswith(_METHOD)}
    # What has neither prefix keeps its name, and so has no place.
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(_METHOD)}
    buffers = {name.removeprefix(_OPTIMIZER): tensor for name, tensor in others.items()}
    parameters = dict(method.trainable().named_parameters())
    of_buffers = {name: parameters[owner] for name in buffers if (owner := name.rpartition(".")[0]) in parameters}
    faults = _differences(state, method.state_dict()) + _differences(buffers, of_buffers)
    _refuse(path, faults, "name the state of a run of the same method and network")
    method.load_state_dict(state)
    for name, buffer in buffers.items():
        parameter, kind = of_buffers[name], name.rpartition(".")[2]
        # In the parameter's memory format.
        optimizer.state[parameter][kind] = torch.empty_like(parameter).copy_(buffer)


def _differences(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, in words."""
    missing = [f"{name} is missing" for name in wanted if name not in given]
    unknown = [f"{name} has no place" for name in given if name not in wanted]
    misshapen = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return misshapen + missing + unknown


def _refuse(path: Path, faults: list[str], mend: str) -> None:
    """Refuse a file with faults; at most the first few are shown."""
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(f"{path}: does not fit the recipe ({', '.join(faults[:_SHOWN])}{more}); {mend}")
