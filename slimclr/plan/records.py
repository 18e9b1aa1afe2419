"""What earlier jobs below `paths.work` have left: Snakemake's benchmark files and the trainings' own records."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimclr.config import Config, Pretrain, Recipe, decisive, fingerprint, seeded_runs
from slimclr.plan.jobs import Job, section_of
from slimclr.plan.rates import Rate, Rates


def recorded(jobs: Sequence[Job], config: Config, recipes: Mapping[str, Recipe]) -> Rates:
    """The seconds of jobs that are done with the same recipe, and the rates of pre-trainings that have begun."""
    runs = {
        folder: (recipe, seed) for run, recipe in recipes.items() for folder, seed in seeded_runs(run, recipe).items()
    }
    found = {}
    for job in jobs:
        recipe, seed = runs.get(job.wildcards.get("run", ""), (None, 0))
        folder = Path(config.paths.work) / "checkpoints" / job.rule / job.wildcards.get("run", "")
        sizes = [path.stat().st_size for path in folder.rglob("*.pt*") if recipe is not None and path.suffix != ".part"]
        rate = _done(job, config, recipe)
        pretrain = recipe and recipe.pretrain
        if rate is None and job.rule == "pretrain" and pretrain and pretrain.epochs:
            rate = _begun(folder, f"seed{seed}", pretrain, job.processes)
        if rate is not None:
            found[job.name] = rate.model_copy(update={"checkpoint_gb": max(sizes) / 1e9 if sizes else None})
    return Rates(jobs=found)


def _done(job: Job, config: Config, recipe: Recipe | None) -> Rate | None:
    """A finished job as Snakemake's benchmark file has it; that of a resumed job tells the last attempt alone."""
    file = Path(job.benchmark)
    if not job.benchmark or not job.done or not file.is_file():
        return None
    if recipe is not None:
        section = section_of(job.rule, config, recipe)
        results = next(Path(path) for path in job.outputs if path.endswith("metrics.json"))
        if json.loads(results.read_text(encoding="utf-8"))["recipe_sha256"] != fingerprint(section):
            return None
    with file.open(encoding="utf-8", newline="") as lines:
        row = list(csv.DictReader(lines, delimiter="\t"))[-1]
    # Of a job that ends at once Snakemake notes no more than its time.
    rest = (
        {}
        if row["max_pss"] in ("NA", "-")
        else {"cores": float(row["mean_load"]) / 100, "memory_gb": float(row["max_pss"]) / 1e3}
    )
    return Rate(
        seconds=max(0.1, float(row["s"])), **{name: value / job.processes for name, value in rest.items() if value}
    )


def _begun(folder: Path, part: str, recipe: Pretrain, processes: int) -> Rate | None:
    """Out of metrics.jsonl: images and seconds of all widths, and of the full one before they join."""
    begun = [path.parent for path in folder.glob(f"*/{part}/run.json") if _recipe_of(path) == decisive(recipe)]
    files = [path / "metrics.jsonl" for path in begun if (path / "metrics.jsonl").is_file()]
    if not files:
        return None
    newest = max(files, key=lambda file: file.stat().st_mtime)
    lines = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    step = 0
    for line in (line for line in lines if line.get("images_per_s")):
        images, own = (line["step"] - step) * recipe.batch, sums[len(line["widths"]) == len(recipe.backbone.widths)]
        own[0], own[1], step = own[0] + images, own[1] + images / line["images_per_s"], line["step"]
    speed = {together: images / seconds / processes for together, (images, seconds) in sums.items() if seconds}
    return Rate(images_per_s=speed[True], full_width_images_per_s=speed.get(False)) if True in speed else None


def _recipe_of(run: Path) -> dict[str, Any] | None:
    """What decides the results of the recipe that a run.json names; None of another version's."""
    try:
        return decisive(Pretrain.model_validate(json.loads(run.read_text(encoding="utf-8"))["recipe"]))
    except (ValueError, KeyError, TypeError):
        return None
