"""The folder of a run's checkpoints: one for each recipe and its inputs, used by one process at a time.

It is `checkpoints/<run>/<hash>/<part>/`. <hash> is the start of a SHA-256 over the resolved recipe, without the keys
that may change, and over the inputs' contents; <part> tells seeds apart. `run.json` in it holds recipe and inputs, and
whether the run finished. Inputs are name -> SHA-256 (`slimclr.data.stores.digest`): their paths do not matter.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimclr.config import OPERATIONAL, Detection, FineTune, Pretrain, Probe, decisive, dump
from slimclr.engine.checkpoints import list_checkpoints
from slimclr.errors import UserError
from slimclr.files import write_json
from slimclr.lock import exclusive_lock

# What does not decide which weights come out, and the number of epochs, which may grow.
MAY_CHANGE = (*OPERATIONAL, "epochs", "gradients_every", "knn", "max_batch_per_gpu", "online", "validation")
_RUN = "run.json"
Trained = Pretrain | Probe | FineTune | Detection


def folder_of(base: Path, recipe: Trained, part: str, inputs: Mapping[str, str]) -> Path:
    """The folder for the checkpoints of a recipe and its inputs, below a run's folder."""
    fixed = {key: value for key, value in decisive(recipe).items() if key not in MAY_CHANGE}
    text = json.dumps({"recipe": fixed, "inputs": dict(inputs)}, sort_keys=True)
    return base / hashlib.sha256(text.encode()).hexdigest()[:12] / part


@contextmanager
def open_folder(base: Path, recipe: Trained, *, part: str, inputs: Mapping[str, str], main: bool) -> Iterator[Path]:
    """Use a run's folder; the process that writes files holds its lock, which ends with the process.

    Args:
        base: Folder of the run.
        recipe: What is trained.
        part: What tells this run apart from others of the same recipe.
        inputs: What it reads: name -> SHA-256 of the content.
        main: This is the process that writes.

    Raises:
        UserError: Another process uses it, or beside it is an unfinished run of another recipe or other inputs.
    """
    folder = folder_of(base, recipe, part, inputs)
    if not main:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: the same run is being trained by another process; wait for it or end it"
    with exclusive_lock(folder / "lock", busy):
        _check(base, folder, dump(recipe), dict(inputs))
        for part_written in folder.glob("*.part*"):
            part_written.unlink()
        yield folder


def finish(folder: Path, recipe: Trained, inputs: Mapping[str, str]) -> None:
    """Record that the run is finished, so that another recipe or other inputs may start beside it."""
    write_json(folder / _RUN, {"recipe": dump(recipe), "inputs": dict(inputs), "finished": True})


def identity(stage: str, recipe: Trained, part: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a checkpoint belongs to: stage, recipe, inputs and part. Resuming compares it."""
    return {"stage": stage, "part": part, "inputs": dict(inputs), "recipe": decisive(recipe)}


def refuse_other(path: Path, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a checkpoint of another stage, seed, recipe or other inputs.

    Args:
        path: The checkpoint.
        written: The `identity` in it.
        wanted: The `identity` of the run that resumes.

    Raises:
        UserError: They differ; the message has the difference.
    """
    if "inputs" in wanted and "inputs" not in written:
        raise UserError(
            f"{path}: written by an earlier version, which did not note what it was trained on; leave out --resume to "
            "begin anew, or use the version that wrote it"
        )
    apart = ("recipe", "inputs")
    old, new = ({key: value for key, value in one.items() if key not in apart} for one in (written, wanted))
    recipes = [one.get("recipe", {}) for one in (written, wanted)]
    inputs = [one.get("inputs", {}) for one in (written, wanted)]
    parts = (_difference(old, new), _difference(*recipes), _other_inputs(*inputs))
    differs = ", ".join(part for part in parts if part)
    if recipes[0].get("epochs", 0) > recipes[1].get("epochs", 0):
        differs = differs or f"epochs: {recipes[0]['epochs']} -> {recipes[1]['epochs']}, which may only grow"
    if differs:
        raise UserError(f"{path}: is of another run ({differs}); name one of this run, or put back what changed")


def _check(base: Path, folder: Path, recipe: dict[str, Any], inputs: dict[str, str]) -> None:
    before = _read(folder)
    if before is not None and before["recipe"]["epochs"] > recipe["epochs"] and list_checkpoints(folder):
        raise UserError(
            f"{folder}: trained for {before['recipe']['epochs']} epochs, now epochs is {recipe['epochs']}; epochs may "
            "grow, but not shrink: put it back, or remove this folder to begin anew"
        )
    if before is None:
        for other in sorted(base.glob(f"*/{folder.name}")):
            run = _read(other)
            if run is not None and list_checkpoints(other):
                _check_neighbour(other, run, recipe, inputs)
    write_json(folder / _RUN, {"recipe": recipe, "inputs": inputs, "finished": False})


def _check_neighbour(other: Path, run: dict[str, Any], recipe: dict[str, Any], inputs: dict[str, str]) -> None:
    """Refuse to start beside an unfinished run; print that a finished one of an earlier version is not used."""
    changed, earlier = _difference(run["recipe"], recipe), "inputs" not in run
    if run["finished"]:
        if earlier and not changed:
            line = "of an earlier version, which did not note what it was trained on; not used, training begins anew"
            print(f"{other}: {line}", file=sys.stderr, flush=True)
        return
    if earlier and not changed:
        raise UserError(
            f"{other}: holds the unfinished run of an earlier version, which did not note what it was trained on; "
            "finish it with that version, or remove that folder to begin anew"
        )
    read = "" if earlier else _other_inputs(run["inputs"], inputs)
    what = " and ".join(name for name, differs in (("another recipe", changed), ("other data", read)) if differs)
    differs = ", ".join(part for part in (changed, read) if part)
    raise UserError(
        f"{other}: holds the unfinished run of {what} ({differs}); put back what changed to go on with it, or remove "
        "that folder to begin anew"
    )


def _other_inputs(old: dict[str, str], new: dict[str, str]) -> str:
    """`name: old -> new` for every input that differs, by the first digits of its digest."""
    return ", ".join(
        f"{name}: {old.get(name, 'none')[:12]} -> {new.get(name, 'none')[:12]}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


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
