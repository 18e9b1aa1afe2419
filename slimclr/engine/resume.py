"""Which checkpoint a run resumes from, and whether it belongs to the run."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimclr.engine.checkpoints import CheckpointManager, load_checkpoint
from slimclr.engine.run_folder import refuse_other
from slimclr.errors import UserError
from slimclr.files import sha256


def checkpoint_to_resume(checkpoints: CheckpointManager, named: Path | None, *, name: str) -> Path | None:
    """The checkpoint to resume from. Called on rank 0 only, since a damaged one is renamed.

    Args:
        checkpoints: Those of the run.
        named: A checkpoint to go back to. The same command may be repeated: if the run has already resumed from it, the
            run's newest checkpoint is used.
        name: What is trained, for the message.

    Returns:
        The named one, or the run's newest; None where there is none.

    Raises:
        UserError: None is named, and every checkpoint of the run is damaged.
    """
    if named is None:
        return checkpoints.newest()
    newest = checkpoints.newest_with_origin(sha256(named)) if named.is_file() else None
    if newest is None:
        return named
    done = f"{newest} goes on from {named} already; move it away to go back again"
    print(f"{name}: {done}", flush=True)
    return newest


def read_checkpoint(path: Path, identity: dict[str, Any], *, anew: str) -> dict[str, Any]:
    """The state in a checkpoint of this run, on the CPU.

    Args:
        path: The checkpoint.
        identity: What is trained.
        anew: For the message: how to start from scratch.

    Raises:
        UserError: It is missing, damaged, written by an earlier version, or of another run.
    """
    state = load_checkpoint(path)
    if "identity" not in state:
        raise UserError(
            f"{path}: written by an earlier version, which this one cannot go on from; {anew} to begin anew, or "
            "use the version that wrote it"
        )
    refuse_other(path, state["identity"], identity)
    return state


def load_weights(path: Path, state: dict[str, Any], method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint's weights and optimiser state.

    Args:
        path: The checkpoint, for the message.
        state: What is in it.
        method: What is trained.
        optimizer: Its optimiser.

    Raises:
        UserError: The shapes differ: the same recipe, but for instance other classes.
    """
    try:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: does not fit what is trained ({reason}); was it trained on other images?") from None
