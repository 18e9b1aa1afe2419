"""From jobs and rates to hours, requeues, disk and memory. Nothing is measured here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slimclr.config import Config, Detection, Probe, Recipe, seeded_runs
from slimclr.plan.jobs import Job, JobForecast, Machine
from slimclr.plan.rates import DataSet, Rate, Rates
from slimclr.plan.sizes import disk_gb

_STAGES = {
    "convert_recordio": "recordio",
    "extract_train": "extract",
    "extract_val": "extract",
    "quick_probe": "quick",
    "measure_latency": "latency",
    "export_width": "export",
}
# So little on any machine that nobody needs to know it better.
_FEW_SECONDS = {
    "report": 6.0,
    "measure_latency": 30.0,
    "export_width": 30.0,
    "import_checkpoint": 6.0,
    "absent_checkpoints": 0.0,
}


@dataclass(frozen=True)
class Forecast:
    """The whole DAG."""

    jobs: list[JobForecast]  # in Snakemake's order
    seconds: float  # wall time of everything that is known
    warnings: list[str] = field(default_factory=list)

    @property
    def unknown(self) -> list[str]:
        """Jobs whose time is not known."""
        return [entry.job.name for entry in self.jobs if entry.seconds is None]


def forecast(
    jobs: Sequence[Job],
    config: Config,
    recipes: Mapping[str, Recipe],
    rates: Rates,
    machine: Machine,
    *,
    time_limit_h: float | None = None,
    planning_s: float = 0.0,
) -> Forecast:
    """Forecast every job and put them behind each other.

    `time_limit_h` are hours of a job, None for its own `runtime`, if it has one. Snakemake takes `planning_s` to begin,
    on a cluster with every job.
    """
    runs = {folder: (run, recipe) for run, recipe in recipes.items() for folder in seeded_runs(run, recipe)}
    costs = []
    for job in jobs:
        run, recipe = runs.get(job.wildcards.get("run", ""), ("", None))
        rate = next(
            (rates.jobs[name] for name in (job.name, f"{job.rule} {run}", job.rule) if name in rates.jobs), Rate()
        )
        seconds = _seconds(job, rate, config, recipe, rates.data_set)
        disk = disk_gb(job, config, recipe, rates.data_set, rate.checkpoint_gb)
        memory = rate.memory_gb and rate.memory_gb * job.processes / job.nodes
        entry = JobForecast(job, _STAGES.get(job.rule, job.rule), seconds, rate.cores or float(job.threads))
        costs.append(replace(entry, disk_gb=disk, memory_gb=memory, gpu_memory_gb=rate.gpu_memory_gb))
    entries = []
    for entry in schedule(costs, machine, planning_s=planning_s):
        minutes = entry.job.number("runtime") if time_limit_h is None else 60 * time_limit_h
        entries.append(replace(entry, requeues=requeues_of(entry.seconds, minutes and 60.0 * minutes)))
    return Forecast(entries, max((entry.end for entry in entries), default=planning_s), _warnings(entries, machine))


def schedule(entries: Sequence[JobForecast], machine: Machine, *, planning_s: float = 0.0) -> list[JobForecast]:
    """The same jobs with `begin` and `end` in seconds; one that takes an unknown time takes none.

    Jobs that share one machine and want more cores than it has are all slowed down alike. Of those that could begin,
    the longest does. What a job needs and is not among them counts as done.
    """
    again = 0.0 if machine.shared else planning_s
    waiting = sorted(entries, key=lambda entry: -(entry.seconds or 0.0))
    undone = {entry.job.name for entry in entries}
    running: dict[str, tuple[JobForecast, float]] = {}
    done: dict[str, JobForecast] = {}
    now = planning_s
    while waiting or running:
        for entry in list(waiting):
            if undone.isdisjoint(entry.job.needs) and _room(entry, [other for other, _ in running.values()], machine):
                waiting.remove(entry)
                left = 0.0 if entry.seconds is None else entry.seconds + again
                running[entry.job.name] = replace(entry, begin=now), left
        assert running, "jobs that need each other"
        wanted = sum(entry.cores for entry, _ in running.values())
        speed = min(1.0, machine.cores / wanted) if machine.shared and wanted else 1.0
        step = min(left for _, left in running.values())
        now += step / speed
        for name, (entry, left) in list(running.items()):
            running[name] = entry, left - step
            if left - step <= 1e-9:
                del running[name]
                undone.remove(name)
                done[name] = replace(entry, end=now)
    return [done[entry.job.name] for entry in entries]


def _room(entry: JobForecast, running: Sequence[JobForecast], machine: Machine) -> bool:
    """Whether Snakemake would begin it beside those that are running."""
    if not running:
        return True
    if machine.jobs is not None and len(running) >= machine.jobs:
        return False
    if machine.shared and sum(min(one.job.threads, machine.cores) for one in (entry, *running)) > machine.cores:
        return False
    gpus = sum(one.job.gpus for one in (entry, *running))
    return machine.gpus is None or not entry.job.gpus or gpus <= machine.gpus


def requeues_of(seconds: float | None, limit_s: float | None) -> int:
    """How often a job is submitted again: it goes on from its checkpoint until its time limit strikes again."""
    if not seconds or not limit_s:
        return 0
    # A job that ends exactly at its limit needs no other one, whatever the rounding of its seconds.
    return max(0, math.ceil(round(seconds / limit_s, 9)) - 1)


def _warnings(entries: list[JobForecast], machine: Machine) -> list[str]:
    lines = [
        f"{entry.job.name}: {entry.requeues} requeues, profile {machine.name} retries {machine.retries} times; run "
        f"snakemake with --retries {entry.requeues}, or raise the time limit"
        for entry in entries
        if entry.requeues > machine.retries
    ]
    for rule in dict.fromkeys(entry.job.rule for entry in entries):
        limits = {entry.job.name: entry.job.number("mem_mb") for entry in entries if entry.job.rule == rule}
        needs = {entry.job.name: 1e3 * (entry.memory_gb or 0.0) for entry in entries if entry.job.rule == rule}
        short = {name: needs[name] for name, limit in limits.items() if limit is not None and needs[name] > limit}
        if short:
            name = max(short, key=lambda one: short[one])
            others = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
            lines.append(
                f"{name}{others}: about {short[name]:,.0f} MB of memory, {limits[name]:,} MB are asked for; run "
                f"snakemake with --set-resources {rule}:mem_mb={math.ceil(short[name] / 1000) * 1000}"
            )
    return lines


def _seconds(job: Job, rate: Rate, config: Config, recipe: Recipe | None, data: DataSet) -> float | None:
    """How long a job takes; None: not known."""
    if job.rule in _FEW_SECONDS and rate == Rate():
        return _FEW_SECONDS[job.rule]
    if rate.seconds is not None or rate == Rate():
        return rate.seconds
    epochs, images, alone, evaluated = _work(job, config, recipe, data)
    parts = (
        (images if images is None else images - (alone or 0.0), rate.images_per_s),
        (alone, rate.full_width_images_per_s or rate.images_per_s),
        (evaluated, rate.evaluation_images_per_s),
    )
    seconds = rate.start_s + epochs * rate.epoch_s
    for amount, per_s in parts:
        if amount is None or (amount and per_s is None):
            return None
        seconds += amount / per_s if per_s else 0.0
    return seconds


def _work(
    job: Job, config: Config, recipe: Recipe | None, data: DataSet
) -> tuple[int, float | None, float | None, float | None]:
    """A job's epochs, images of one process in all of them, those before slow start, and those of its evaluation."""

    def trained(section: Any, images: int | None, epochs: int) -> float | None:
        if not epochs:
            return 0.0
        return None if images is None else epochs * (images // section.batch * section.batch) / job.processes

    if recipe is None:
        return 0, _photos(job, data), 0.0, 0.0
    if job.rule == "pretrain" and recipe.pretrain:
        own, images = recipe.pretrain, data.train_images
        # A network of one width is never slower than the full one before slow start.
        first = own.epochs if len(own.backbone.widths) == 1 else own.slow_start_epoch
        return own.epochs, trained(own, images, own.epochs), trained(own, images, first), 0.0
    if job.rule == "quick_probe":
        counts = (data.train_images, data.val_images)
        return 0, 0.0, 0.0, None if None in counts else sum(count or 0 for count in counts) / job.processes
    if job.rule == "finetune":
        tuned = recipe.finetune
        assert tuned is not None, "only runs with this section have such a job"
        named = data.train_images is None or tuned.names is not None
        images = None if named else round((data.train_images or 0) * tuned.labels)
        return (
            tuned.epochs,
            trained(tuned, images, tuned.epochs),
            0.0,
            data.val_images and data.val_images / job.processes,
        )
    probing = job.rule == "probe"
    section: Probe | Detection = recipe.probe if probing else config.detection
    train, val = (data.train_images, data.val_images) if probing else (data.coco_train_images, data.coco_val_images)
    return section.epochs, trained(section, train, section.epochs), 0.0, val and val / job.processes


def _photos(job: Job, data: DataSet) -> float | None:
    """Images of a job that trains nothing."""
    if job.rule == "report":
        return 0.0
    split = job.wildcards.get("split") or job.rule.removeprefix("extract_")
    if split in ("train", "val"):
        return data.train_images if split == "train" else data.val_images
    counts = [data.train_images, data.val_images]
    counts += [data.coco_train_images, data.coco_val_images] if job.rule == "miniature" else []
    return sum(count or 0 for count in counts)
