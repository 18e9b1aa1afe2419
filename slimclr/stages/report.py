"""The report over all runs of a config."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from slimclr.absent import MISSING
from slimclr.config import Config, Recipe, dump, fingerprint, seeded_runs
from slimclr.errors import UserError
from slimclr.reporting import write_report
from slimclr.reporting.tables.checkpoints import Absent

# Stages behind pre-training that every run has, and those that a recipe asks for.
_EVERY, _ASKED = ("probe",), ("quick", "finetune", "transfer")


def report(
    config: Config,
    recipes: dict[str, Recipe],
    *,
    config_name: str,
    results: Path,
    references: Sequence[Path],
    out: Path,
    absent: Mapping[str, str],
    partial: bool = False,
) -> None:
    """Write index.html, tables.md, tables.csv, tables.tex, figures/ and recipes/.

    Args:
        config: The pipeline's config.
        recipes: Its runs.
        config_name: What the page calls it.
        results: Folder with pretrain/, probe/ and further stages'.
        references: Files of published figures.
        out: Folder of the report.
        absent: What is wrong with runs that are left out, by the folder's name: with checkpoints that were not
            imported, and with runs that begin with them.
        partial: Stages that have no result yet are named and left out.

    Raises:
        UserError: With `partial` there is no result at all; or see `write_report`.
    """
    folders = {
        run: [folder for folder in seeded_runs(run, recipe) if folder not in absent] for run, recipe in recipes.items()
    }
    asked = {run: _stages(config, recipe) for run, recipe in recipes.items()}
    stages = {
        stage: [folder for run, names in folders.items() if stage in asked[run] for folder in names]
        for stage in ("pretrain", *_EVERY, *_ASKED, "latency")
    }
    unfinished = _unfinished(results, stages) if partial else {}
    stages = {stage: [one for one in names if one not in unfinished.get(stage, ())] for stage, names in stages.items()}
    trained = stages.pop("pretrain")
    if partial and not trained:
        raise UserError(f"{results}: no run has a result yet; report when a pre-training is done")
    folders = {run: [folder for folder in names if folder in trained] for run, names in folders.items()}
    write_report(
        results,
        out,
        runs={run: names for run, names in folders.items() if names},
        stages=stages,
        unfinished=unfinished,
        references=references,
        config_sha256=fingerprint(config),
        config_name=config_name,
        absent=_left_out(recipes, absent),
        recipes={run: yaml.safe_dump(dump(recipe), sort_keys=False) for run, recipe in recipes.items()},
    )


def _left_out(recipes: Mapping[str, Recipe], absent: Mapping[str, str]) -> list[Absent]:
    """The checkpoints that were not imported."""
    return [
        Absent(folder, checkpoint.file, "" if absent[folder] == MISSING else absent[folder], checkpoint.url)
        for run, recipe in recipes.items()
        for folder in seeded_runs(run, recipe)
        if (checkpoint := recipe.checkpoint) and folder in absent
    ]


def _stages(config: Config, recipe: Recipe) -> set[str]:
    asked = {stage for stage in _ASKED if getattr(recipe, stage)}
    return {"pretrain", *_EVERY, *asked, *(("latency",) if config.latency.report else ())}


def _unfinished(results: Path, stages: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Directories without a result, by stage; what a stage is made from is missing for all behind it."""
    without: dict[str, list[str]] = {}
    for stage, names in stages.items():
        missing = [
            name
            for name in names
            if name in without.get("pretrain", ()) or not (results / stage / name / "metrics.json").is_file()
        ]
        if missing:
            without[stage] = missing
    return without
