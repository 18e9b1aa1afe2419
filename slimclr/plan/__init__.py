"""`slimclr plan`: hours, requeues, disk and memory of a whole config before anything is submitted."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from slimclr.config import Recipe, load_config, load_recipes
from slimclr.errors import UserError
from slimclr.machine import describe_machine
from slimclr.plan.forecast import Forecast, forecast
from slimclr.plan.jobs import RUN_RULES, planned_jobs, read_profile
from slimclr.plan.largest import largest_batch
from slimclr.plan.measure import Measuring
from slimclr.plan.rates import Rates, merge, read_rates, write_rates
from slimclr.plan.records import recorded
from slimclr.plan.show import print_json, print_table, size
from slimclr.plan.sizes import data_set
from slimclr.plan.trial import open_trials

__all__ = ["hours", "largest_batch", "plan"]


def hours(text: str) -> float:
    """Hours of a time limit such as 24h, 90m or 2d.

    Raises:
        UserError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)
    if not match or not float(match[1]):
        raise UserError(f"--time-limit {text}: not a time; write 24h, 90m or 2d")
    return float(match[1]) * {"m": 1 / 60, "h": 1.0, "d": 24.0}[match[2]]


def plan(
    targets: Sequence[str],
    *,
    config: Path,
    profile: str,
    root: Path,
    gpus: int | None = None,
    time_limit_h: float | None = None,
    rates: Path | None = None,
    measured: bool = True,
    write: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the forecast of what Snakemake would make of `targets`; relative paths start at the current folder.

    `gpus` (of each node of a training) and `time_limit_h` take the place of the profile's. What the file `rates` and
    earlier jobs' records leave out is measured, or with `measured` off stays unknown; `write` receives what was used.
    """
    stated = Rates() if rates is None else read_rates(rates)
    settings = load_config(config)
    recipes, work = load_recipes(settings, root), Path(settings.paths.work)
    folder, machine = read_profile(profile, root)
    jobs, planning_s = planned_jobs(targets, config=config, profile=folder, machine=machine, root=root, gpus=gpus)
    known = merge(merge(stated, Rates(data_set=data_set(settings))), recorded(jobs, settings, recipes))
    notes, used = _sources(stated, known, rates, work, recipes), known
    if measured:
        with open_trials(work, root) as trials:
            measuring = Measuring(jobs, settings, recipes, known, trials)
            used = merge(known, measuring.all())
        notes += measuring.notes
    result = forecast(
        jobs, settings, recipes, used, machine, time_limit_h=time_limit_h, planning_s=planning_s if measured else 0.0
    )
    result.warnings.extend(_space(result, work))
    if write is not None:
        write_rates(used, write)
    if as_json:
        facts = {"config": str(config), "profile": profile, "machine": describe_machine()}
        print_json(result, used, notes, facts)
    else:
        print_table(result, notes, f"{config}, profile {profile}, planned on {describe_machine()}")


def _sources(stated: Rates, known: Rates, path: Path | None, work: Path, recipes: Mapping[str, Recipe]) -> list[str]:
    """What was stated, and what earlier jobs have recorded; everything else was measured here."""
    notes = [f"stated in {path}: {', '.join(stated.jobs) or 'no job'}"] if path is not None else []
    for name in stated.jobs:
        rule, _, run = name.partition(" ")
        if run and run.partition("_seed")[0] not in recipes and rule in RUN_RULES:
            notes.append(f"{path}: {name} is no job of this config; its rate is not used")
    found = ", ".join(name for name in known.jobs if name not in stated.jobs)
    return [*notes, *([f"recorded by earlier jobs in {work}: {found}"] if found else [])]


def _space(result: Forecast, work: Path) -> list[str]:
    """A warning when `paths.work` has less room than what is not there yet takes."""
    existing = next(path for path in (work.absolute(), *work.absolute().parents) if path.exists())
    needed = sum(entry.disk_gb or 0.0 for entry in result.jobs if not entry.job.done)
    free = shutil.disk_usage(existing).free / 1e9
    if needed <= free:
        return []
    return [f"disk: {size(needed)} needed in {work}, {size(free)} free; free space, or set paths.work to a larger disk"]
