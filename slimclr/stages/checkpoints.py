"""Free the rolling checkpoints that finished stages no longer need."""

import json
import re
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

_KEPT = re.compile(r"epoch_\d+\.pt(\.sha256)?")


def clean_checkpoints(*, checkpoints: Path, results: Path, dry_run: bool) -> int:
    """Show the size of every stage's checkpoints, then remove those whose results are there.

    Those that stay for good (`keep_every_epochs`) are neither counted nor removed.

    Args:
        checkpoints: Folder with <stage>/<run>/.
        results: Folder with <stage>/<run>/metrics.json of finished stages.
        dry_run: Only show.

    Returns:
        Bytes that were (or would be) freed.
    """
    table, freed, finished = Table("stage", "run", "size", "", title="rolling checkpoints"), 0, []
    for folder in sorted(checkpoints.glob("*/*")):
        stage, run = folder.parts[-2:]
        files = [file for file in folder.rglob("*") if file.is_file() and not _KEPT.fullmatch(file.name)]
        size = sum(file.stat().st_size for file in files)
        done = _made(results / stage / run / "metrics.json", stage) and not any(
            map(_unfinished, folder.rglob("run.json"))
        )
        if done:
            finished.append(folder)
            freed += size
        table.add_row(
            stage,
            run,
            decimal(size),
            "finished: removed"
            if done and not dry_run
            else "finished: can go"
            if done
            else "kept, its stage is not finished",
        )
    console = Console()
    console.print(table if table.rows else f"no checkpoints below {checkpoints}")
    console.print(f"{decimal(freed)} {'can be' if dry_run else 'are'} freed")
    if not dry_run:
        for folder in finished:
            for path in [*sorted(folder.rglob("*"), reverse=True), folder]:  # what is in a folder comes before it
                if path.is_dir():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif not _KEPT.fullmatch(path.name):
                    path.unlink()
    return freed


def _made(metrics: Path, stage: str) -> bool:
    """Whether a stage's results are there, and its own: an import's stand for no checkpoint."""
    return metrics.is_file() and json.loads(metrics.read_text(encoding="utf-8")).get("stage") == stage


def _unfinished(run: Path) -> bool:
    """Whether a run's `run.json` says that it is being trained, for instance for more epochs than its results."""
    return not json.loads(run.read_text(encoding="utf-8")).get("finished", False)
