"""Loads tensors from untrusted `torch.save` files, without executing anything that their pickle names."""

import re
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from slimclr.errors import UserError


class _Option:
    """Stands for an option, or a part of one: takes any arguments and does nothing with them."""

    def __init__(self, *arguments: Any) -> None:
        """Leave them unread."""

    def __setstate__(self, state: Any) -> None:
        """Leave it unread."""


def _empty_dict(*arguments: Any) -> dict[Any, Any]:
    """Stands for `defaultdict`: items are put into it, and torch lets them into plain dictionaries alone."""
    return {}


# What the options of training scripts consist of, by name. torch itself knows its sizes, devices and data types.
_OPTIONS = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "datetime": ("datetime", "date", "timedelta", "timezone"),
    "builtins": ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "range", "slice", "str", "tuple"),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
}
# Where Python 3.13 and NumPy 2 moved them.
_MOVED = {"pathlib": "pathlib._local", "numpy.core.multiarray": "numpy._core.multiarray"}
_ALLOWED: list[Any] = [
    (_Option, f"{module}.{name}")
    for home, names in _OPTIONS.items()
    for module in (home, _MOVED.get(home, home))
    for name in names
] + [(_empty_dict, "collections.defaultdict")]


def load_state(file: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint.

    Only torch's own constructors of tensors are called; pickled options become stand-ins.

    Args:
        file: `.pth.tar`, `.pth` or `.safetensors`.

    Raises:
        UserError: The file is damaged, asks for something that is neither tensor nor option, or has no named tensors.
    """
    content = _load_safetensors(file) if file.suffix == ".safetensors" else _load_pickle(file)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise UserError(
            f"{file}: holds no state_dict of named tensors; give a checkpoint of the reference implementation"
        )
    return state


def _load_safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); copy or download it again") from None


def _load_pickle(file: Path) -> Any:
    with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes may make the unpickler stumble over anything
            match = re.search(r"GLOBAL (\S+)", str(error))
            if isinstance(error, UnpicklingError) and match:
                raise UserError(
                    f"{file}: asks for {match[1]}, which is neither a tensor nor a plain option; it was not called; "
                    "give a file that holds the state_dict alone"
                ) from None
            raise UserError(
                f"{file}: not a whole file of torch.save ({type(error).__name__}); download it again"
            ) from None
