"""Measure what a config's jobs do, by a short real run of each kind."""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slimclr.build.batch import plan_batch
from slimclr.config import Config, Optimizer, Pretrain, Probe, Random, Recipe, Schedule, dump, seeded_runs
from slimclr.errors import UserError
from slimclr.machine import describe_machine, gpu_names
from slimclr.plan.jobs import Job
from slimclr.plan.rates import DataSet, Rate, Rates
from slimclr.plan.sizes import classes_of
from slimclr.plan.trial import Trial, Trials, photo, spread

# On the CPU a step of more pixels than this takes minutes, and nobody waits for an epoch of them.
_CPU_PIXELS = 1_000_000
# What changes how long a training takes, but not the speed of its steps.
_NO_SPEED = (
    "epochs",
    "schedule",
    "log_every",
    "checkpoint_minutes",
    "keep_every_epochs",
    "slow_start_epoch",
    "knn",
    "validation",
)
# So small that no weight moves to where it is not finite.
_LR = 1e-6


def shortened(section: Pretrain | Probe, **changes: Any) -> str:
    """A recipe for a short training of one process with so many images per step, as JSON; `changes` are its keys."""
    optimizer = (section.optimizer or Optimizer(lr=_LR)).model_copy(update={"lr": _LR})
    values = dump(section) | {"optimizer": dump(optimizer), "schedule": dump(Schedule()), "validation": None} | changes
    if isinstance(section, Pretrain):
        values |= {"bn_batch": section.bn_batch and changes["batch"], "max_batch_per_gpu": None}
        values |= dict.fromkeys(("knn", "online", "gradients_every", "keep_every_epochs"))
    return json.dumps(values)


def recorded_gb(folder: Path) -> float:
    """The greatest memory that a training's records tell: the GPU's, or on the CPU the process's."""
    lines = [json.loads(line) for path in folder.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    return max(float(line.get("memory_mb", 0)) for line in lines) / 1e3


class Measuring:
    """Measures what the jobs do and `known`, which also tells the data set, does not say."""

    def __init__(
        self, jobs: Sequence[Job], config: Config, recipes: Mapping[str, Recipe], known: Rates, trials: Trials
    ) -> None:
        self.config, self.recipes, self.known, self.trials = config, recipes, known, trials
        self.run_of = {folder: name for name, recipe in recipes.items() for folder in seeded_runs(name, recipe)}
        run = {job.name: f"{job.rule} {self.run_of.get(job.wildcards.get('run', ''))}" for job in jobs}
        self.jobs = [job for job in jobs if not {job.name, job.rule, run[job.name]} & set(known.jobs)]
        self.notes: list[str] = []
        self.rates: dict[str, Rate] = {}
        self.sizes: dict[str, float] = {}
        self._once: dict[str, Any] = {}
        self._photos: list[Path] = []

    def all(self) -> Rates:
        """Every kind of job once; `notes` has a line for everything that could not be measured."""
        if {job.rule for job in self.jobs} - {"transfer", "report", "measure_latency", "export_width"}:
            self._try("data", self._cifar if self.config.cifar10 else self._extraction)
        for rule in ("pretrain", "probe", "transfer"):
            for job in (job for job in self.jobs if job.rule == rule):
                self._try(job.name, partial(self._train, job))
        self.notes += [
            f"{job.name}: not measured: state a rate, or run it once" for job in self.jobs if job.rule == "finetune"
        ]
        for job in (job for job in self.jobs if job.rule == "quick_probe"):
            self._try(job.name, partial(self._quick, job))
        return Rates(machine=describe_machine(), jobs=self.rates, data_set=DataSet(**self.sizes))

    def _try(self, name: str, task: Callable[[], None]) -> None:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            task()
        except UserError as error:
            self.notes.append(f"{name}: not measured: {error}")

    def _extraction(self) -> None:
        """Archive to folder to LMDB, with the miniature's own archive or photos of ImageNet's usual size."""
        place, known, split = self.trials.folder, self.known.data_set, "train"
        if self.config.miniature:
            trial = self.trials("miniature", "--out", place / "raw")
            self.rates["miniature"] = Rate(seconds=trial.seconds, memory_gb=trial.memory_gb)
            source = place / f"raw/{self.config.imagenet.train}"
        else:
            names = [f"n{number:08d}" for number in range(8)]
            source = spread([photo(place / "photo.JPEG", 500, 375)], place / "drawn", count=1500, classes=names)
            split = "val"  # whose images may lie in a folder
        folder, lmdb = place / "train", place / "train.lmdb"
        check = ("--check-images", self.config.imagenet.check_images)
        options = ("--archive", source, "--expect", "subset", "--out", folder, *check)
        extracting = self.trials("extract", "--split", split, *options)
        self._photos = sorted(folder.glob("*/*.*"))
        self._data(("extract_train", "extract_val"), extracting, len(self._photos))
        self._data(("convert",), self.trials("convert", "--folder", folder, "--out", lmdb), len(self._photos))
        if self.config.miniature:
            mb = sum(path.stat().st_size for path in self._photos) / 1e6 / len(self._photos)
            self.sizes = {f"{part}_mb": mb * (getattr(known, f"{part}_images") or 0) for part in ("train", "val")}

    def _data(self, rules: Sequence[str], trial: Trial, images: int) -> None:
        """The rate of jobs that show progress while they read and write images, and do something else besides."""
        work = max(1e-3, trial.steps[-1] - trial.steps[0])
        rate = Rate(start_s=max(0.0, trial.seconds - work), images_per_s=images / work, memory_gb=trial.memory_gb)
        self.rates |= dict.fromkeys(rules, rate)

    def _cifar(self) -> None:
        from slimclr.data.archives.cifar import CLASSES, SIDE

        place = self.trials.folder
        self._photos = [photo(place / "photo.png", SIDE, SIDE)]
        for split, count in (("train", 600), ("test", 120)):
            spread(self._photos, place / "cifar" / split, count=count, classes=CLASSES)
        self._data(("cifar",), self.trials("cifar", "--source", place / "cifar", "--out", place), 720)

    def _train(self, job: Job) -> None:
        """A training's rate; runs whose steps are the same are measured once."""
        recipe = self.recipes[self.run_of[job.wildcards["run"]]]
        if recipe.pretrain is None:
            raise UserError("what network a checkpoint holds is known when it is imported; state a rate")
        if job.rule == "pretrain" and not recipe.pretrain.epochs:
            self.rates[job.name] = self._drawn(recipe.pretrain)[1]
            return
        if job.gpus and not gpu_names():
            raise UserError(
                f"it has {job.gpus} GPUs, this machine has none; run plan on a machine with one, or state a rate"
            )
        section: Any = self.config.detection if job.rule == "transfer" else getattr(recipe, job.rule)
        pixels = math.prod(section.image_scale) if job.rule == "transfer" else section.image_size**2
        if not job.gpus and section.batch // job.processes * pixels > _CPU_PIXELS:
            raise UserError("a step would take minutes without a GPU; run plan on a machine with one, or state a rate")
        speed = {key: value for key, value in dump(section).items() if key not in _NO_SPEED}
        slow = job.rule == "pretrain" and recipe.pretrain.slow_start_epoch > 0
        shape = [dump(recipe.pretrain.backbone), slow, job.processes, job.gpus, job.threads]
        key = json.dumps([job.rule, speed, shape], sort_keys=True)
        if key not in self._once:
            measure = self._transfer if job.rule == "transfer" else self._steps
            self._once[key] = measure(job, recipe.pretrain, recipe.probe)
        self.rates[job.name] = self._once[key]

    def _quick(self, job: Job) -> None:
        """Quick probes look at an image as a probe's evaluation does; what comes after that takes seconds."""
        run = job.wildcards["run"]
        names = (f"probe {run}", f"probe {self.run_of[run]}", "probe")
        known = self.known.jobs | self.rates
        probe = next((known[name] for name in names if name in known), Rate())
        if probe.evaluation_images_per_s is None:
            raise UserError("the probe's evaluation, which reads images as it does, has no rate; state one")
        kept = {"start_s", "evaluation_images_per_s", "cores", "memory_gb", "gpu_memory_gb"}
        self.rates[job.name] = Rate(**probe.model_dump(include=kept))

    def _drawn(self, recipe: Pretrain) -> tuple[Path, Rate]:
        """Weights of a random backbone with the shape of a recipe's, and the rate of drawing them."""
        key = json.dumps([dump(recipe.backbone), recipe.image_size])
        if key not in self._once:
            out = self._place()
            drawn = recipe.model_copy(update={"method": Random(name="random"), "epochs": 0, "optimizer": None})
            options = ("--recipe", json.dumps(dump(drawn)), "--checkpoints", out, "--out", out)
            trial = self.trials("pretrain", "--name", "drawn", *options)
            weights = out / "weights.safetensors"
            rate = Rate(seconds=trial.seconds, cores=1, checkpoint_gb=weights.stat().st_size / 1e9)
            self._once[key] = weights, rate
        return self._once[key]

    def _place(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.trials.folder))

    def _run_short(self, job: Job, *options: object, environment: str = "train") -> Trial:
        cores = min(job.cpus // max(1, job.processes // job.nodes), len(os.sched_getaffinity(0)))
        command = (job.rule, "--name", "short", "--gpus", int(job.gpus > 0), *options)
        return self.trials(*command, environment=environment, threads=max(1, cores))

    def _steps(self, job: Job, own: Pretrain, probe: Probe) -> Rate:
        """Pre-training or probe; a supervised run's own classifier costs what a probe costs."""
        pretrain = job.rule == "pretrain"
        section: Pretrain | Probe = own if pretrain else probe
        batch = plan_batch(own, job.processes).per_gpu if pretrain else section.batch // job.processes
        if not self._photos:
            raise UserError("there are no images to load, as extraction was not measured")
        workers = min(section.workers, max(1, len(os.sched_getaffinity(0)) // max(1, len(gpu_names()))))
        # Every loader process has its first batch ready at about the same time: only later ones tell its speed.
        steps = max(24 if job.gpus else 12, 3 * workers)
        slow = pretrain and own.slow_start_epoch > 0
        changes = {"batch": batch, "workers": workers, "epochs": 3 if slow else 2}
        changes |= {"slow_start_epoch": int(slow), "allow_not_comparable": True} if pretrain else {}
        out, images = self._place(), self._place()
        classes = [f"n{number:08d}" for number in range(min(classes_of(self.config), steps * batch))]
        data = spread(self._photos, images / "train", count=steps * batch, classes=classes)
        options = ["--recipe", shortened(section, **changes), "--checkpoints", out]
        if pretrain:
            trial = self._run_short(job, *options, "--data", data, "--out", out)
            return self._rate_of_steps(job, trial, steps, batch, workers, out, evaluated=0)
        count = max(4 * batch, len(classes))
        val = spread(self._photos, images / "val", count=count, classes=classes)
        options += ["--weights", self._drawn(own)[0], "--train", data, "--val", val]
        trial = self._run_short(job, *options, "--out", out / "metrics.json")
        return self._rate_of_steps(job, trial, steps, batch, workers, out, evaluated=count)

    def _rate_of_steps(
        self, job: Job, trial: Trial, steps: int, batch: int, workers: int, out: Path, *, evaluated: int
    ) -> Rate:
        """Out of the times of steps: two or three epochs, of which only the first may train the full width alone."""
        ends = trial.steps[1:]
        epochs = [ends[first : first + steps] for first in range(0, len(ends), steps)]
        skipped = max(1, workers, steps // 3 if job.gpus else 0)
        seconds = [(own[-1] - own[skipped - 1]) / (steps - skipped) for own in epochs]
        gap = max(0.0, epochs[-1][0] - epochs[-2][-1] - seconds[-1])
        evaluating = trial.seconds - ends[-1] if evaluated else 0.0
        return Rate(
            start_s=max(0.0, trial.seconds - steps * sum(seconds) - len(epochs) * gap - evaluating),
            epoch_s=gap,
            images_per_s=batch / seconds[-1],
            full_width_images_per_s=batch / seconds[0] if len(epochs) > 2 else None,
            evaluation_images_per_s=evaluated / evaluating if evaluated else None,
            cores=trial.cores,
            memory_gb=trial.memory_gb,
            gpu_memory_gb=recorded_gb(out) if job.gpus else None,
            checkpoint_gb=max(path.stat().st_size for path in out.rglob("*.pt")) / 1e9,
        )

    def _transfer(self, job: Job, own: Pretrain, _: Probe) -> Rate:
        from slimclr.miniature.write import write_miniature

        section, place = self.config.detection, self._place()
        batch, iterations, val = max(1, section.batch // job.processes), 20, 40
        write_miniature(place, train_per_class=1, val_per_class=1, coco_train=iterations * batch, coco_val=val)
        short = section.model_copy(update={"epochs": 1, "milestones": (), "batch": batch, "lr": _LR})
        files = ("--weights", self._drawn(own)[0], "--coco", place / "coco", "--checkpoints", place)
        options = ("--recipe", json.dumps(dump(short)), *files, "--out", place / "metrics.json")
        began = time.time()
        trial = self._run_short(job, *options, environment="detection")
        (checkpoint,), (scalars,) = place.rglob("step_*.pt"), place.rglob("scalars.json")
        record = json.loads(scalars.read_text().splitlines()[-1])
        step, trained = record["time"], checkpoint.stat().st_mtime - began
        return Rate(
            start_s=max(0.0, trained - iterations * step),
            images_per_s=batch / step,
            evaluation_images_per_s=val / (trial.seconds - trained),
            cores=trial.cores,
            memory_gb=trial.memory_gb,
            gpu_memory_gb=record["memory"] / 1e3 if job.gpus else None,
            checkpoint_gb=checkpoint.stat().st_size / 1e9,
        )
