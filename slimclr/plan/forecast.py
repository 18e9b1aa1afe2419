"""From jobs and rates to hours, requeues, disk and memory. Nothing is measured here."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from slimclr.config import Config, Recipe, seeded_runs
from slimclr.plan import sizes
from slimclr.plan.jobs import Job, Machine
from slimclr.plan.rates import DEFAULT, PretrainRate, ProbeRate, Process, Rates, TransferRate
from slimclr.plan.schedule import Task, schedule

_STAGES = {"convert_recordio": "recordio", "extract_train": "extract", "extract_val": "extract"}


@dataclass(frozen=True)
class JobForecast:
    """What one job takes.

    Attributes:
        job: The job.
        stage: Its stage.
        seconds: Alone on its machine, without what waits for it; None: not known.
        cores: Processor cores that it keeps busy.
        begin: Seconds after the start of the whole DAG.
        end: Its end; slower than `seconds` where jobs share a machine.
        requeues: How often it is submitted again because of its time limit.
        disk_gb: What it leaves on the disk, checkpoints included; None: not known.
        memory_gb: Of one node; None: not known.
        gpu_memory_gb: Of one GPU; None: not known.
    """

    job: Job
    stage: str
    seconds: float | None
    cores: float
    begin: float = 0.0
    end: float = 0.0
    requeues: int = 0
    disk_gb: float | None = None
    memory_gb: float | None = None
    gpu_memory_gb: float | None = None

    @property
    def gpu_hours(self) -> float | None:
        """GPUs times hours."""
        return None if self.seconds is None else self.job.gpus * self.seconds / 3600

    @property
    def cpu_hours(self) -> float | None:
        """Cores that it holds times hours."""
        return None if self.seconds is None else self.job.cpus * self.job.nodes * self.seconds / 3600


@dataclass(frozen=True)
class Forecast:
    """The whole DAG.

    Attributes:
        jobs: In Snakemake's order.
        seconds: Wall time of everything that is known.
        warnings: One line each.
    """

    jobs: list[JobForecast]
    seconds: float
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

    Args:
        jobs: The DAG.
        config: The pipeline's config.
        recipes: By run.
        rates: Measured or stated; their data set is whole.
        machine: What runs at the same time.
        time_limit_h: Hours of a job; None: the job's own `runtime`, if it has one.
        planning_s: Seconds that Snakemake takes to begin; on a cluster every job takes them again.
    """
    costs = _Costs(config, recipes, rates)
    entries = [costs.entry(job) for job in jobs]
    again = 0.0 if machine.shared else planning_s
    tasks = [
        Task(
            entry.job.name,
            entry.job.needs,
            0.0 if entry.seconds is None else entry.seconds + again,
            min(entry.job.threads, machine.cores) if machine.shared else entry.job.threads,
            entry.job.gpus,
            entry.cores,
        )
        for entry in entries
    ]
    spans = schedule(tasks, machine)
    limits = {job.name: _limit(job, time_limit_h) for job in jobs}
    timed = []
    for entry in entries:
        begin, end = spans[entry.job.name]
        requeues = requeues_of(entry.seconds, limits[entry.job.name])
        values = vars(entry) | {"begin": begin + planning_s, "end": end + planning_s, "requeues": requeues}
        timed.append(JobForecast(**values))
    seconds = planning_s + max((end for _, end in spans.values()), default=0.0)
    return Forecast(timed, seconds, _warnings(timed, machine))


def requeues_of(seconds: float | None, limit_s: float | None) -> int:
    """How often a job is submitted again: it goes on from its checkpoint until its time limit strikes again."""
    if not seconds or not limit_s:
        return 0
    # A job that ends exactly at its limit needs no other one, whatever the rounding of its seconds.
    return max(0, math.ceil(round(seconds / limit_s, 9)) - 1)


def _limit(job: Job, stated_h: float | None) -> float | None:
    if stated_h is not None:
        return 3600 * stated_h
    minutes = job.number("runtime")
    return None if minutes is None else 60.0 * minutes


def _warnings(entries: list[JobForecast], machine: Machine) -> list[str]:
    lines = [
        f"{entry.job.name}: {entry.requeues} requeues, profile {machine.name} retries {machine.retries} times; run "
        f"snakemake with --retries {entry.requeues}, or raise the time limit"
        for entry in entries
        if entry.requeues > machine.retries
    ]
    short: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for entry in entries:
        limit = entry.job.number("mem_mb")
        if limit is not None and entry.memory_gb is not None and entry.memory_gb * 1e3 > limit:
            short.setdefault((entry.job.rule, limit), []).append((entry.memory_gb * 1e3, entry.job.name))
    for (rule, limit), jobs in short.items():
        needed, name = max(jobs)
        others = f" (and {len(jobs) - 1} more)" if len(jobs) > 1 else ""
        lines.append(
            f"{name}{others}: about {needed:,.0f} MB of memory, {limit:,} MB are asked for; run snakemake with "
            f"--set-resources {rule}:mem_mb={math.ceil(needed / 1000) * 1000}"
        )
    return lines


class _Costs:
    """Seconds, cores, disk and memory of single jobs."""

    def __init__(self, config: Config, recipes: Mapping[str, Recipe], rates: Rates):
        self.config, self.rates, self.data = config, rates, rates.data_set
        self.recipes = {folder: recipe for run, recipe in recipes.items() for folder in seeded_runs(run, recipe)}
        self.run_of = {folder: run for run, recipe in recipes.items() for folder in seeded_runs(run, recipe)}
        self.classes = sizes.classes_of(config)
        self._trained: dict[str, Callable[[Job], JobForecast]] = {
            "pretrain": self._pretrain,
            "probe": self._probe,
            "transfer": self._transfer,
        }

    def entry(self, job: Job) -> JobForecast:
        """A job's forecast without its place in time."""
        if job.rule in self._trained:
            return self._trained[job.rule](job)
        work, disk = self._data(job)
        seconds = None if work is None else work + self.rates.start_s.get(job.rule, 0.0)
        memory = self.rates.data.memory_gb if job.rule != "report" else None
        stage = _STAGES.get(job.rule, job.rule)
        return JobForecast(job, stage, seconds, float(job.threads), disk_gb=disk, memory_gb=memory)

    def _rate(self, table: Mapping[str, Process], job: Job) -> Process | None:
        folder = job.wildcards["run"]
        return table.get(folder) or table.get(self.run_of[folder]) or table.get(DEFAULT)

    def _start(self, job: Job) -> float:
        return self.rates.start_s.get(job.rule, 0.0)

    def _pretrain(self, job: Job) -> JobForecast:
        recipe = self.recipes[job.wildcards["run"]].pretrain
        disk = sizes.pretrain_disk(recipe, self.classes)
        if recipe.method.name == "random":
            start = self.rates.start_s.get("pretrain")
            return JobForecast(job, "pretrain", start, 1.0, disk_gb=disk)
        rate = self._rate(self.rates.pretrain, job)
        images, seconds = self.data.train_images, None
        if isinstance(rate, PretrainRate) and images is not None:
            own = images // recipe.batch * recipe.batch / job.processes
            # A network of one width is never slower than the full one before slow start.
            first = recipe.epochs if len(recipe.backbone.widths) == 1 else recipe.slow_start_epoch
            alone = first * own / (rate.full_width_images_per_s or rate.images_per_s)
            together = (recipe.epochs - first) * own / rate.images_per_s
            seconds = self._start(job) + alone + together + recipe.epochs * rate.epoch_s
        return self._training(job, "pretrain", seconds, rate, disk)

    def _probe(self, job: Job) -> JobForecast:
        recipes = self.recipes[job.wildcards["run"]]
        recipe = recipes.probe
        rate, seconds = self._rate(self.rates.probe, job), None
        images, val = self.data.train_images, self.data.val_images
        if isinstance(rate, ProbeRate) and images is not None and val is not None:
            own = images // recipe.batch * recipe.batch / job.processes
            training = recipe.epochs * (own / rate.images_per_s + rate.epoch_s)
            seconds = self._start(job) + training + val / job.processes / rate.evaluation_images_per_s
        disk = sizes.probe_disk(recipe, recipes.pretrain, self.classes)
        return self._training(job, "probe", seconds, rate, disk)

    def _transfer(self, job: Job) -> JobForecast:
        rate, seconds = self._rate(self.rates.transfer, job), None
        images, val = self.data.coco_train_images, self.data.coco_val_images
        disk = None
        if isinstance(rate, TransferRate):
            disk = sizes.transfer_disk(rate.checkpoint_gb)
            if images is not None and val is not None:
                iterations = self.config.detection.epochs * (images // self.config.detection.batch)
                evaluation = val / job.processes / rate.evaluation_images_per_s
                seconds = self._start(job) + iterations / rate.iterations_per_s + evaluation
        return self._training(job, "transfer", seconds, rate, disk)

    def _training(
        self, job: Job, stage: str, seconds: float | None, rate: Process | None, disk: float | None
    ) -> JobForecast:
        memory = rate.memory_gb if rate else None
        return JobForecast(
            job,
            stage,
            seconds,
            rate.cores if rate else float(job.threads),
            disk_gb=disk,
            memory_gb=None if memory is None else memory * job.processes / job.nodes,
            gpu_memory_gb=rate.gpu_memory_gb if rate else None,
        )

    def _data(self, job: Job) -> tuple[float | None, float | None]:
        """Seconds of work and GB of what is left, of the jobs that train nothing."""
        rates, data = self.rates.data, self.data
        train, val = data.train_mb, data.val_mb
        both = None if train is None or val is None else train + val
        if job.rule == "report":
            return (0.0 if "report" in self.rates.start_s else None), 0.01
        if job.rule == "miniature":
            counts = [data.train_images, data.val_images, data.coco_train_images, data.coco_val_images]
            photos = sum(count or 0 for count in counts)
            return _over(photos, rates.miniature_photos_per_s), None if both is None else 1.3 * both / 1e3
        if job.rule == "cifar":
            parts = [sizes.split_disk(data, split, "lmdb", rates) for split in ("train", "val")]
            return _over(both, rates.cifar_mb_per_s), _sum(parts)
        split = job.wildcards.get("split") or job.rule.removeprefix("extract_")
        mb = {"train": train, "val": val}.get(split)
        if job.rule.startswith("extract_"):
            kind = "folder" if self.config.imagenet.keep_folder else "lmdb"
            return _over(mb, rates.extract_mb_per_s), sizes.split_disk(data, split, kind, rates)
        if job.rule == "convert":
            return _over(mb, rates.convert_mb_per_s), sizes.split_disk(data, split, "lmdb", rates)
        if job.rule == "convert_recordio":
            return _over(mb, rates.recordio_mb_per_s), sizes.split_disk(data, split, "recordio", rates)
        return None, None


def _over(amount: float | None, rate: float | None) -> float | None:
    return None if amount is None or rate is None else amount / rate


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
