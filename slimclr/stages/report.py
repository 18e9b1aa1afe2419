"""The report over all runs of a config."""

from collections.abc import Mapping
from pathlib import Path

from slimclr.absent import MISSING
from slimclr.config import Config, Recipe, fingerprint, seeded_runs
from slimclr.reporting import write_report
from slimclr.reporting.tables.checkpoints import Absent


def report(
    config: Config,
    recipes: dict[str, Recipe],
    *,
    config_name: str,
    results: Path,
    references: Path,
    out: Path,
    absent: Mapping[str, str],
) -> None:
    """Write index.html, tables.md, tables.csv, tables.tex and figures/.

    Args:
        config: The pipeline's config.
        recipes: Its runs.
        config_name: What the page calls it.
        results: Folder with pretrain/, probe/ and transfer/.
        references: The published figures.
        out: Folder of the report.
        absent: What is wrong with runs that are left out, by the folder's name: with checkpoints that were not
            imported, and with runs that begin with them.
    """
    folders = {
        run: [folder for folder in seeded_runs(run, recipe) if folder not in absent] for run, recipe in recipes.items()
    }
    left_out = [
        Absent(folder, checkpoint.file, "" if absent[folder] == MISSING else absent[folder], checkpoint.url)
        for run, recipe in recipes.items()
        for folder in seeded_runs(run, recipe)
        if (checkpoint := recipe.checkpoint) and folder in absent
    ]
    write_report(
        results,
        out,
        runs={run: names for run, names in folders.items() if names},
        transfer_runs=[folder for run, recipe in recipes.items() if recipe.transfer for folder in folders[run]],
        others={
            stage: [folder for run, recipe in recipes.items() if getattr(recipe, stage) for folder in folders[run]]
            for stage in ("quick", "finetune")
        }
        | {"latency": [folder for run in recipes for folder in folders[run]] if config.latency.report else []},
        references=references,
        config_sha256=fingerprint(config),
        config_name=config_name,
        absent=left_out,
    )
