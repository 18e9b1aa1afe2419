"""Rolling checkpoints: written whole, the newest and the one before are kept, resumed from the newest.

They live in `checkpoints/<run>/<recipe>/`, where <recipe> begins the hash of the resolved recipe: a changed recipe
starts anew beside the old one instead of resuming from weights it did not make.
"""

import re
from pathlib import Path
from typing import Any

import torch

from slimclr.errors import UserError
from slimclr.files import atomic_path

KEEP = 2
_NAME = re.compile(r"epoch_(\d{5})\.pt")


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write `state` after `epoch` finished epochs, then remove all but the newest two."""
    with atomic_path(folder / f"epoch_{epoch:05d}.pt") as part:
        torch.save(state, part)
    for path in list_checkpoints(folder)[:-KEEP]:
        path.unlink()


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob("epoch_*.pt") if _NAME.fullmatch(path.name))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint's state on the CPU, or None where there is none.

    Raises:
        UserError: The newest is damaged.
    """
    paths = list_checkpoints(folder)
    if not paths:
        return None
    try:
        return torch.load(paths[-1], map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{paths[-1]}: damaged checkpoint ({reason}); delete it to go on from the one before") from None
