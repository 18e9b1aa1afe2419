"""The folder of a run's checkpoints: one for each recipe, used by one process at a time.

`checkpoints/<run>/<recipe>/<part>/`, where <recipe> begins the hash of the resolved recipe without the keys that may
change, and <part> tells seeds apart. `run.json` in it says which recipe it is and whether the run finished.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimclr.config import OPERATIONAL, Pretrain, Probe, decisive, dump
from slimclr.data.lock import alone
from slimclr.engine.checkpoints import list_checkpoints
from slimclr.errors import UserError
from slimclr.files import write_json

# What does not decide which weights come out, and the number of epochs, which may grow.
MAY_CHANGE = (*OPERATIONAL, "epochs", "gradients_every", "knn", "max_batch_per_gpu")
_RUN = "run.json"


def folder_of(base: Path, recipe: Pretrain | Probe, part: str) -> Path:
    """Where a recipe's checkpoints lie below a run's folder."""
    fixed = {key: value for key, value in decisive(recipe).items() if key not in MAY_CHANGE}
    return base / hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12] / part


@contextmanager
def open_folder(base: Path, recipe: Pretrain | Probe, *, part: str, main: bool) -> Iterator[Path]:
    """Use a run's folder; the process that writes files holds its lock, which ends with the process.

    Args:
        base: Folder of the run.
        recipe: What is trained.
        part: What tells this run apart from others of the same recipe.
        main: This is the process that writes.

    Raises:
        UserError: Another process uses it, or checkpoints of another recipe wait to be gone on with.
    """
    folder = folder_of(base, recipe, part)
    if not main:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: the same run is being trained by another process; wait for it or end it"
    with alone(folder / "lock", busy):
        _check(base, folder, dump(recipe))
        for part_written in folder.glob("*.part*"):
            part_written.unlink()
        yield folder


def finish(folder: Path, recipe: Pretrain | Probe) -> None:
    """Note that the run is finished: another recipe may begin beside it."""
    write_json(folder / _RUN, {"recipe": dump(recipe), "finished": True})


def identity(stage: str, recipe: Pretrain | Probe, part: str) -> dict[str, Any]:
    """What a checkpoint is one of: stage, recipe and what tells it apart from others of that recipe."""
    return {"stage": stage, "part": part, "recipe": decisive(recipe)}


def refuse_other(path: Path, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a checkpoint of another stage, seed or recipe.

    Args:
        path: The checkpoint.
        written: The `identity` in it.
        wanted: That of the run that is to go on from it.

    Raises:
        UserError: It is of something else, with the difference.
    """
    old, new = ({key: value for key, value in one.items() if key != "recipe"} for one in (written, wanted))
    recipes = [one.get("recipe", {}) for one in (written, wanted)]
    differs = ", ".join(part for part in (_difference(old, new), _difference(*recipes)) if part)
    if recipes[0].get("epochs", 0) > recipes[1].get("epochs", 0):
        differs = differs or f"epochs: {recipes[0]['epochs']} -> {recipes[1]['epochs']}, which may only grow"
    if differs:
        raise UserError(f"{path}: is of another run ({differs}); name one of this run, or put the recipe back")


def _check(base: Path, folder: Path, recipe: dict[str, Any]) -> None:
    before = _read(folder)
    if before is not None and before["recipe"]["epochs"] > recipe["epochs"] and list_checkpoints(folder):
        raise UserError(
            f"{folder}: trained for {before['recipe']['epochs']} epochs, now epochs is {recipe['epochs']}; epochs may "
            "grow, but not shrink: put it back, or remove this folder to begin anew"
        )
    if before is None:
        for other in sorted(base.glob(f"*/{folder.name}")):
            unfinished = _read(other)
            if unfinished is not None and not unfinished["finished"] and list_checkpoints(other):
                raise UserError(
                    f"{other}: holds the unfinished run of another recipe ({_difference(unfinished['recipe'], recipe)}"
                    "); put the recipe back to go on with it, or remove that folder to begin anew"
                )
    write_json(folder / _RUN, {"recipe": recipe, "finished": False})


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        return document if isinstance(document["recipe"], dict) and "finished" in document else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """`key: old -> new` for every key that differs."""
    parts = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if f"{prefix}{key}" in MAY_CHANGE:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            parts.append(_difference(before, after, f"{prefix}{key}."))
        elif before != after:
            parts.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return ", ".join(part for part in parts if part)
