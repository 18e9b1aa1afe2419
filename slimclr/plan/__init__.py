"""`slimclr plan`: hours, requeues, disk and memory of a whole config before anything is submitted."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from slimclr.config import load_config, load_recipes
from slimclr.errors import UserError
from slimclr.plan.forecast import Forecast, forecast
from slimclr.plan.jobs import planned_jobs, read_profile
from slimclr.plan.largest import largest_batch
from slimclr.plan.measure import describe_machine, measure, open_bench
from slimclr.plan.rates import DEFAULT, Rates, merge, read_rates, write_rates
from slimclr.plan.show import document, print_json, print_table, size
from slimclr.plan.sizes import data_set

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
    """Print the forecast of a config's jobs.

    Args:
        targets: What Snakemake would be asked for.
        config: The pipeline's config; its relative paths start at the current folder.
        profile: A name under workflow/profiles, or a profile's folder.
        root: The repository.
        gpus: GPUs of each node of a training, instead of the profile's.
        time_limit_h: Hours of a job, instead of the profile's.
        rates: Stated rates; what they leave out is measured.
        measured: Measure what is not stated; otherwise it stays unknown.
        write: Rates file to write.
        as_json: Print JSON.

    Raises:
        UserError: Config, profile or rates are wrong, or Snakemake is missing.
    """
    stated = Rates() if rates is None else read_rates(rates)
    settings = load_config(config)
    recipes = load_recipes(settings, root)
    folder, machine = read_profile(profile, root)
    jobs, planning_s = planned_jobs(targets, config=config, profile=folder, machine=machine, root=root, gpus=gpus)
    stated = merge(stated, Rates(data_set=data_set(settings)))
    notes = _unused(stated, recipes, rates)
    used = stated
    if measured:
        with open_bench(Path(settings.paths.work), root) as run:
            found, left_out = measure(jobs, settings, recipes, stated, machine, run)
        used = merge(stated, found)
        notes += left_out
    notes.insert(0, _origin(stated, used, rates, measured))
    result = forecast(
        jobs, settings, recipes, used, machine, time_limit_h=time_limit_h, planning_s=planning_s if measured else 0.0
    )
    result.warnings.extend(_space(result, Path(settings.paths.work)))
    if write is not None:
        write_rates(used, write)
    heading = f"{config}, profile {profile}, planned on {describe_machine()}"
    if as_json:
        facts = {"config": str(config), "profile": profile, "machine": describe_machine()}
        print_json(document(result, used, notes, facts))
    else:
        print_table(result, notes, heading)


def _origin(stated: Rates, used: Rates, path: Path | None, measured: bool) -> str:
    own = [name for name in ("pretrain", "probe", "transfer") if getattr(stated, name)]
    own += [name for name in ("data", "data_set") if path and getattr(read_rates(path), name).model_fields_set]
    here = [name for name in ("pretrain", "probe", "transfer") if getattr(used, name) != getattr(stated, name)]
    parts = [f"stated in {path}: {', '.join(own) or 'nothing that is used'}"] if path else []
    if measured:
        parts.append(f"measured here: {', '.join([*here, 'data and beginnings of jobs'])}")
    else:
        parts.append("nothing was measured")
    return "; ".join(parts)


def _unused(stated: Rates, recipes: object, path: Path | None) -> list[str]:
    names = {name for table in (stated.pretrain, stated.probe, stated.transfer) for name in table}
    known = set(recipes) | {DEFAULT}  # type: ignore[call-overload]
    strange = sorted(name for name in names if name not in known and name.partition("_seed")[0] not in known)
    return [f"{path}: {name} is no run of this config; its rates are not used" for name in strange]


def _space(result: Forecast, work: Path) -> list[str]:
    """A warning when `paths.work` has less room than what is not there yet takes."""
    existing = next(path for path in (work.absolute(), *work.absolute().parents) if path.exists())
    needed = sum(entry.disk_gb or 0.0 for entry in result.jobs if not entry.job.done)
    free = shutil.disk_usage(existing).free / 1e9
    if needed <= free:
        return []
    return [f"disk: {size(needed)} needed in {work}, {size(free)} free; free space, or set paths.work to a larger disk"]
