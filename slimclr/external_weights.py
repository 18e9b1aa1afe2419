"""Weights that pre-training did not make: imported, or copied into the results by hand. No stage may replace them.

This module does not import torch: the Snakefile asks at every start.
"""

import shlex
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from slimclr.errors import UserError
from slimclr.files import json_object, read_object

WEIGHTS = "weights.safetensors"


def read_header(weights: Path) -> dict[str, Any]:
    """The header that `slimclr.nn.weights.save_weights` wrote; empty where it wrote none.

    Raises:
        UserError: Not a whole safetensors file.
    """
    try:
        with safe_open(weights, framework="np") as file:
            text = (file.metadata() or {}).get("slimclr", "{}")
    except SafetensorError as error:
        raise UserError(
            f"{weights}: not a whole safetensors file ({error}); put a whole one there, or delete it and rerun its "
            "stage"
        ) from None
    return json_object(text)


def read_tensor_names(weights: Path) -> list[str]:
    """Names of a file's tensors; none where it is not safetensors."""
    try:
        with safe_open(weights, framework="np") as file:
            return list(file.keys())
    except SafetensorError:
        return []


def external_runs(work: Path, runs: Iterable[str], *, imported: Collection[str] = ()) -> list[str]:
    """Runs whose weights the user brought: for the workflow these are sources, not products.

    Args:
        work: Folder with results/ and checkpoints/.
        runs: Names of the runs' folders.
        imported: Those whose recipe names a checkpoint: the rule import_checkpoint makes their weights.

    Raises:
        UserError: Beside such weights lies nothing, or something that does not describe them; or pre-training made
            the weights that the rule import_checkpoint would replace.
    """
    return [run for run in runs if _is_external(work, run, imported=run in imported)]


def _is_external(work: Path, run: str, *, imported: bool) -> bool:
    folder = work / "results/pretrain" / run
    weights = folder / WEIGHTS
    if not weights.is_file():
        return False
    header, metrics = read_header(weights), read_object(folder / "metrics.json")
    # An import by hand follows no recipe.
    if imported and header.get("stage") == "import" and header.get("recipe_sha256"):
        return False
    if imported and header.get("stage") == "pretrain":
        raise UserError(
            f"{weights}: made by pretrain, but the recipe of {run} names a checkpoint now; move the folder elsewhere, "
            "or give the checkpoint a run of its own"
        )
    if header.get("stage") == "pretrain" and header.get("run") == run:
        # A training that was killed between its files leaves no metrics.json, but its checkpoints.
        killed = metrics is None and (work / "checkpoints/pretrain" / run).exists()
        if killed or (metrics is not None and metrics.get("stage") == "pretrain"):
            return False
    if metrics is None or not (folder / "metrics.jsonl").is_file():
        fault = f"has no {'metrics.json' if metrics is None else 'metrics.jsonl'} beside it"
    elif (metrics.get("stage"), metrics.get("run"), metrics.get("source_sha256")) != (
        "import",
        run,
        header.get("source_sha256"),
    ):
        fault = f"is not what metrics.json beside it describes, run {metrics.get('run')!r}"
    else:
        return True
    command = shlex.join(["slimclr", "import", str(weights), "--out", str(folder)])
    raise UserError(
        f"{weights}: not made here by the rule pretrain, and {fault}; to keep it run `{command}`, to train the run "
        "move it elsewhere"
    )


def refuse_to_replace(folder: Path, *, made_by: str) -> None:
    """Let a stage write into a folder of results only where it replaces weights of its own.

    Args:
        folder: Where the stage writes its weights.
        made_by: The stage, as headers of weights name it.

    Raises:
        UserError: The folder holds weights that the stage did not make.
    """
    weights = folder / WEIGHTS
    if weights.is_file() and (stage := read_header(weights).get("stage")) != made_by:
        maker = f"by {stage}" if stage else "elsewhere"
        raise UserError(
            f"{weights}: made {maker}, so {made_by} does not replace it; move it elsewhere, or name another --out"
        )
