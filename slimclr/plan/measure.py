"""Measure what a config's jobs do, each in a process of its own, as its job would run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from slimclr.build.batch import plan_batch
from slimclr.config import Config, Pretrain, Probe, Recipe, dump, seeded_runs
from slimclr.errors import UserError
from slimclr.machine import gpu_names, processor
from slimclr.plan.jobs import Job, Machine
from slimclr.plan.rates import DEFAULT, DataRate, DataSet, PretrainRate, ProbeRate, Rates, TransferRate
from slimclr.plan.sizes import classes_of

DATA_RULES = ("miniature", "extract_train", "extract_val", "convert", "cifar")
# ImageNet's photos have 115 kB on average.
_PHOTO_BYTES = 115_000.0
# What changes how long a training takes, but not the speed of its steps.
_NO_SPEED = ("epochs", "schedule", "log_every", "checkpoint_minutes", "keep_every_epochs", "slow_start_epoch", "knn")


class Bench:
    """Runs tasks of `slimclr.plan.bench` in a folder that is removed in the end.

    Args:
        folder: Where they write.
        root: The repository, with the environments.
    """

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        self._count = 0

    def __call__(self, task: str, *, environment: str = "train", threads: int = 1, **options: Any) -> dict[str, Any]:
        """Run a task.

        Args:
            task: Its name.
            environment: train, detection or recordio.
            threads: Threads of its computations.
            options: What it takes.

        Returns:
            What it measured, with `start_s`, the seconds until it had built everything, and `wall_s`, all of them.

        Raises:
            UserError: The environment is missing, or the task failed.
        """
        python = sys.executable if environment == "train" else self._python(environment)
        self._count += 1
        out = self.folder / f"{self._count}.json"
        keys = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        surroundings = os.environ | dict.fromkeys(keys, str(threads))
        command = [python, "-m", "slimclr.plan.bench", task, json.dumps(options), str(out)]
        began = time.time()
        done = subprocess.run(
            command, env=surroundings, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wall = time.time() - began
        if done.returncode or not out.exists():
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise UserError((lines or [f"exit code {done.returncode}"])[-1])
        result = json.loads(out.read_text(encoding="utf-8"))
        if "error" in result:
            raise UserError(result["error"])
        return {**result, "start_s": result.get("ready", began) - began, "wall_s": wall}

    def job(self, arguments: Sequence[str]) -> float:
        """Seconds of a whole `slimclr` command.

        Raises:
            UserError: It failed.
        """
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "slimclr", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise UserError((done.stdout.splitlines() or [f"exit code {done.returncode}"])[-1])
        return time.perf_counter() - began

    def _python(self, environment: str) -> str:
        folder = self.root / ".venvs" / environment
        if not (folder / "installed.sha256").is_file():
            raise UserError(f".venvs/{environment} is not installed; run make .venvs/{environment}, or state a rate")
        return str(folder / "bin/python")


@contextmanager
def open_bench(work: Path, root: Path) -> Iterator[Bench]:
    """A bench whose folder lies on the disk that the pipeline writes to, where that can be written.

    Args:
        work: `paths.work`; need not exist yet.
        root: The repository.
    """
    existing = next(path for path in (work.absolute(), *work.absolute().parents) if path.exists())
    place = existing if os.access(existing, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".slimclr-plan-", dir=place) as folder:
        yield Bench(Path(folder), root)


def measure(
    jobs: Sequence[Job],
    config: Config,
    recipes: Mapping[str, Recipe],
    stated: Rates,
    machine: Machine,
    run: Bench,
) -> tuple[Rates, list[str]]:
    """Measure what the jobs do and `stated` does not say.

    Args:
        jobs: The DAG.
        config: The pipeline's config.
        recipes: By run.
        stated: The user's rates, with what is known of the data set.
        machine: What the profile says.
        run: Where to measure.

    Returns:
        Rates, and a line for everything that could not be measured.
    """
    measuring = _Measuring(config, recipes, stated, machine, run)
    return measuring.all(jobs), measuring.notes


class _Measuring:
    def __init__(
        self, config: Config, recipes: Mapping[str, Recipe], stated: Rates, machine: Machine, run: Bench
    ) -> None:
        self.config, self.recipes, self.stated, self.machine, self.run = config, recipes, stated, machine, run
        self.run_of = {folder: name for name, recipe in recipes.items() for folder in seeded_runs(name, recipe)}
        self.notes: list[str] = []
        self.start: dict[str, float] = {}
        self.known: dict[str, Any] = {}
        self.tables: dict[str, dict[str, Any]] = {"pretrain": {}, "probe": {}, "transfer": {}}
        self.data: dict[str, Any] = {}
        self.image: dict[str, Any] = {}

    def all(self, jobs: Sequence[Job]) -> Rates:
        """Every kind of job once."""
        rules = {job.rule: job for job in jobs}
        if any(rule in rules for rule in ("pretrain", "probe", *DATA_RULES)):
            self._try("data", partial(self._data, rules))
        if "convert_recordio" in rules and not self.stated.data.recordio_mb_per_s:
            self._try("recordio", partial(self._recordio, rules["convert_recordio"]))
        stages = {"pretrain": self._pretrain, "probe": self._probe, "transfer": self._transfer}
        for rule, one in stages.items():
            for job in (job for job in jobs if job.rule == rule):
                self._try(job.name, partial(one, job))
        if "report" in rules and "report" not in self.stated.start_s:
            self._try("report", partial(self._report, jobs))
        return Rates(
            machine=describe_machine(),
            start_s=self.start,
            pretrain=self.tables["pretrain"],
            probe=self.tables["probe"],
            transfer=self.tables["transfer"],
            data=DataRate(**{key: self.data[key] for key in DataRate.model_fields if key in self.data}),
            data_set=DataSet(**self.image),
        )

    def _try(self, name: str, task: Callable[[], None]) -> None:
        try:
            task()
        except UserError as error:
            self.notes.append(f"{name}: not measured: {error}")

    def _is_stated(self, job: Job) -> bool:
        table = getattr(self.stated, job.rule)
        folder = job.wildcards["run"]
        return any(name in table for name in (folder, self.run_of[folder], DEFAULT))

    def _device(self, job: Job) -> str:
        here = len(gpu_names())
        if job.gpus and not here:
            raise UserError(
                f"it has {job.gpus} GPUs, this machine has none; run plan on a machine with one, or state a rate"
            )
        return "cuda" if job.gpus else "cpu"

    def _threads(self, job: Job) -> int:
        return max(1, min(job.cpus // max(1, job.processes // job.nodes), len(os.sched_getaffinity(0))))

    def _workers(self, job: Job, wanted: int) -> int:
        """Loader processes of one process that have a core of their own."""
        cores = self.machine.cores if self.machine.shared else job.cpus
        return max(1, min(wanted, cores // max(1, job.processes // job.nodes)))

    def _tell(self, text: str) -> None:
        print(f"measuring {text}", file=sys.stderr, flush=True)

    # ----------------------------------------------------------------------------------------------- data

    def _data(self, rules: Mapping[str, Job]) -> None:
        """Also leaves the images that the loaders are measured with."""
        known = self.stated.data_set
        kind = "cifar" if self.config.cifar10 else "miniature" if self.config.miniature else "imagenet"
        mean = _PHOTO_BYTES
        if known.train_mb and known.train_images:
            mean = min(1e6, max(5e3, 1e6 * known.train_mb / known.train_images))
        self._tell("extraction and conversion" if kind != "cifar" else "CIFAR-10's conversion")
        counts = (known.train_images, known.val_images, known.coco_train_images, known.coco_val_images)
        photos = sum(count or 0 for count in counts)
        check, folder = self.config.imagenet.check_images, str(self.run.folder)
        self.data = self.run("data", kind=kind, folder=folder, mean_bytes=mean, photos=photos, check_images=check)
        self.start |= {rule: self.data["start_s"] for rule in DATA_RULES if rule in rules}
        if "small" in self.data:
            self._data_jobs(rules, Path(self.data["small"]))
        self.image = {"lmdb_bytes_per_image": self.data["lmdb_bytes_per_image"]}
        if kind == "miniature":
            for split in ("train", "val"):
                images = getattr(known, f"{split}_images")
                self.image[f"{split}_mb"] = images * self.data["image_bytes"] / 1e6 if images else None

    def _data_jobs(self, rules: Mapping[str, Job], archive: Path) -> None:
        """Whole jobs with next to nothing to do: what they take beside their work."""
        folder = self.run.folder / "nothing"
        extraction = ["extract", "--split", "train", "--archive", str(archive), "--expect", "subset"]
        extracting = self.run.job([*extraction, "--out", str(folder)])
        converting = self.run.job(["convert", "--folder", str(folder), "--out", str(folder) + ".lmdb"])
        self.start |= {rule: extracting for rule in ("extract_train", "extract_val") if rule in rules}
        self.start |= {rule: converting for rule in ("convert",) if rule in rules}

    def _recordio(self, job: Job) -> None:
        if "lmdb" not in self.data:
            return
        self._tell("RecordIO")
        resize = self.config.imagenet.recordio_resize
        options = {"lmdb": self.data["lmdb"], "folder": str(self.run.folder), "resize": resize, "jobs": job.threads}
        result = self.run("recordio", environment="recordio", **options)
        self.data |= {key: result[key] for key in ("recordio_mb_per_s", "recordio_share")}
        self.start["convert_recordio"] = result["start_s"]

    # ----------------------------------------------------------------------------------------------- training

    def _drawn(self, recipe: Pretrain) -> str:
        """Weights of a random backbone; its whole job is what every pre-training takes beside its steps."""
        key = json.dumps([dump(recipe.backbone), recipe.image_size])
        if key not in self.known:
            self._tell(f"the beginning and the end of a job with {recipe.backbone.arch}")
            result = self.run("drawn", recipe=dump(recipe), folder=tempfile.mkdtemp(dir=self.run.folder))
            self.known[key] = result["weights"]
            self.start["pretrain"] = max(result["wall_s"], self.start.get("pretrain", 0.0))
        return str(self.known[key])

    def _images(self) -> str:
        if "lmdb" not in self.data:
            raise UserError("there are no images to load, as extraction was not measured")
        return str(self.data["lmdb"])

    def _pretrain(self, job: Job) -> None:
        recipe = self.recipes[self.run_of[job.wildcards["run"]]].pretrain
        self._drawn(recipe)
        if recipe.method.name == "random" or self._is_stated(job):
            return
        options = {
            "recipe": dump(recipe),
            "batch": plan_batch(recipe, job.processes).per_gpu,
            "classes": classes_of(self.config),
            "workers": self._workers(job, recipe.workers),
            "device": self._device(job),
            "data": self._images(),
        }
        result = self._once("pretrain", job, recipe, bool(recipe.slow_start_epoch), options)
        values = {key: result[key] for key in PretrainRate.model_fields}
        self.tables["pretrain"][job.wildcards["run"]] = PretrainRate(**values)

    def _probe(self, job: Job) -> None:
        if self._is_stated(job):
            return
        recipes = self.recipes[self.run_of[job.wildcards["run"]]]
        if recipes.probe.batch % job.processes:
            raise UserError(f"probe.batch: {recipes.probe.batch} images do not divide among {job.processes} GPUs")
        options = {
            "recipe": dump(recipes.probe),
            "weights": self._drawn(recipes.pretrain),
            "batch": recipes.probe.batch // job.processes,
            "classes": classes_of(self.config),
            "workers": self._workers(job, recipes.probe.workers),
            "device": self._device(job),
            "data": self._images(),
        }
        result = self._once("probe", job, recipes.probe, dump(recipes.pretrain.backbone), options)
        self.start["probe"] = max(result["start_s"], self.start.get("probe", 0.0))
        values = {key: result[key] for key in ProbeRate.model_fields}
        self.tables["probe"][job.wildcards["run"]] = ProbeRate(**values)

    def _once(
        self, task: str, job: Job, recipe: Pretrain | Probe, also: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Runs whose steps are the same are measured once."""
        section = {key: value for key, value in dump(recipe).items() if key not in _NO_SPEED}
        key = json.dumps([task, section, also, options["batch"], options["workers"], options["device"]], sort_keys=True)
        if key not in self.known:
            self._tell(job.name)
            self.known[key] = self.run(task, threads=self._threads(job), **options)
            measured = self.known[key]["measured_batch"]
            if measured != options["batch"]:
                self.notes.append(
                    f"{job.name}: measured with {measured} images per step instead of {options['batch']}, which would "
                    "take too long on a CPU; taken as so many times longer"
                )
        return dict(self.known[key])

    def _transfer(self, job: Job) -> None:
        if self._is_stated(job):
            return
        device, detection = self._device(job), self.config.detection
        wanted = max(1, detection.batch // job.processes)
        # Images of full size take many seconds each on a CPU.
        large = device == "cpu" and detection.image_scale[0] * detection.image_scale[1] > 300_000
        batch = 1 if large else wanted
        recipe = self.recipes[self.run_of[job.wildcards["run"]]].pretrain
        key = json.dumps([dump(recipe.backbone), batch, device])
        weights = self._drawn(recipe)
        if key not in self.known:
            self._tell(job.name)
            iterations = 5 if large else 14
            self.known[key] = self.run(
                "transfer",
                environment="detection",
                threads=self._threads(job),
                recipe=dump(detection),
                weights=weights,
                batch=batch,
                device=device,
                folder=tempfile.mkdtemp(dir=self.run.folder),
                drawn_coco={"coco_train": iterations * batch, "coco_val": 2 if large else 12},
            )
        result = dict(self.known[key])
        result["iterations_per_s"] *= batch / wanted
        self.start["transfer"] = max(result["start_s"], self.start.get("transfer", 0.0))
        values = {key: result[key] for key in TransferRate.model_fields}
        self.tables["transfer"][job.wildcards["run"]] = TransferRate(**values)

    def _report(self, jobs: Sequence[Job]) -> None:
        self._tell("the report")
        result = self.run(
            "report",
            runs={run: list(seeded_runs(run, recipe)) for run, recipe in self.recipes.items()},
            transfer_runs=[job.wildcards["run"] for job in jobs if job.rule == "transfer"],
            references=str((self.run.root / self.config.references).absolute()),
            folder=str(self.run.folder),
        )
        self.start["report"] = result["wall_s"]


def describe_machine() -> str:
    """Cores and GPUs of this machine, in words."""
    cores = len(os.sched_getaffinity(0))
    devices = len(gpu_names())
    if not devices:
        return f"{cores} cores of {processor()}, no GPU"
    from slimclr.doctor.finding import ask

    names = ask(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).output.splitlines()
    return f"{cores} cores of {processor()}, {devices} x {names[0] if names else 'GPU'}"
