"""The report over all runs of a config."""

from pathlib import Path

from slimclr.config import Config, Recipe, fingerprint, seeded_runs
from slimclr.reporting import write_report


def report(
    config: Config, recipes: dict[str, Recipe], *, config_name: str, results: Path, references: Path, out: Path
) -> None:
    """Write index.html, tables.md, tables.csv, tables.tex and figures/.

    Args:
        config: The pipeline's config.
        recipes: Its runs.
        config_name: What the page calls it.
        results: Folder with pretrain/, probe/ and transfer/.
        references: The published figures.
        out: Folder of the report.
    """
    folders = {run: list(seeded_runs(run, recipe)) for run, recipe in recipes.items()}
    write_report(
        results,
        out,
        runs=folders,
        transfer_runs=[folder for run, recipe in recipes.items() if recipe.transfer for folder in folders[run]],
        others={
            stage: [folder for run, recipe in recipes.items() if getattr(recipe, stage) for folder in folders[run]]
            for stage in ("quick", "finetune")
        }
        | {"latency": [folder for run in recipes for folder in folders[run]] if config.latency.report else []},
        references=references,
        config_sha256=fingerprint(config),
        config_name=config_name,
    )
