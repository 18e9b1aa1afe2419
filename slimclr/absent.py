"""Checkpoints that recipes name and that are not there, or are other files than were meant. Their runs are left out.

This module does not import torch: the Snakefile asks at every start.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from slimclr.config import RELEASED, Checkpoint, fingerprint
from slimclr.digests import compare, digests
from slimclr.external_weights import WEIGHTS
from slimclr.files import read_object

MISSING = "no such file"


def absent_checkpoints(work: Path, raw: Path, checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """What is wrong with the file of every run whose checkpoint can not be imported: `MISSING`, or what its hash is.

    A file that was imported already may be gone. What is in a file tells the import itself.

    Args:
        work: Folder with results/.
        raw: Folder with released/.
        checkpoints: What the recipe says, by the name of the run's folder.
    """
    faults = {}
    for run, checkpoint in checkpoints.items():
        if _is_imported(work / "results/pretrain" / run, checkpoint):
            continue
        file = raw / RELEASED / checkpoint.file
        if not file.is_file():
            faults[run] = MISSING
            continue
        fits, found = compare(file.name, digests(file), expected=checkpoint.sha256)
        if not fits:
            faults[run] = found
    return faults


def begin_with_absent(begins: Mapping[str, str], absent: Collection[str]) -> dict[str, str]:
    """Runs that cannot be trained because they begin with an absent run, or with one that does: what each begins with.

    Args:
        begins: The run that a run begins with.
        absent: Absent runs.
    """
    left_out: dict[str, str] = {}
    while further := {
        run: other for run, other in begins.items() if run not in left_out and (other in absent or other in left_out)
    }:
        left_out |= further
    return left_out


def tell(raw: Path, checkpoint: Checkpoint, fault: str) -> str:
    """One line about such a file."""
    given = f" from {checkpoint.url}" if checkpoint.url else ""
    mend = f"download it{given} and lay it there" if fault == MISSING else f"download it again{given}"
    known = "" if fault == MISSING else ", or write the file's own sha256 into the recipe to take it as it is"
    return f"{raw / RELEASED / checkpoint.file}: {fault}; {mend}{known}"


def _is_imported(folder: Path, checkpoint: Checkpoint) -> bool:
    metrics = read_object(folder / "metrics.json") or {}
    made_of = metrics.get("stage"), metrics.get("recipe_sha256")
    return (folder / WEIGHTS).is_file() and made_of == ("import", fingerprint(checkpoint))
