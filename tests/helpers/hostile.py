"""A small world of every stage's inputs, commands in processes that are quickly started, and a tally."""

import atexit
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from slimclr.cli import main
from slimclr.files import sha256
from tests.helpers.small_recipe import RECIPE
from tests.helpers.tar_tools import lmdb_content

MMDET = find_spec("mmdet") is not None
PATIENCE_SECONDS = 30
PRETRAIN = RECIPE | {
    "method": {"name": "mocov2", "dim": 16, "queue": 32},
    "batch": 16,
    "epochs": 4,
    "checkpoint_minutes": 1e-5,
    "knn": {"every": 1, "bank": 32, "queries": 16},
}
PROBE = {
    "epochs": 4,
    "batch": 16,
    "optimizer": {"lr": 1.0},
    "image_size": 32,
    "resize": 40,
    "workers": 0,
    "log_every": 1,
    "checkpoint_minutes": 1e-5,
}
TRANSFER = {
    "epochs": 3,
    "milestones": [2],
    "batch": 2,
    "lr": 0.01,
    "warmup_iterations": 5,
    "image_scale": [64, 64],
    "workers": 1,
    "checkpoint_minutes": 1e-5,
    "fpn_channels": 16,
    "fc_channels": 32,
    "mask_convs": 1,
    "anchor_scale": 4,
    "proposals": 20,
    "rpn_samples": 16,
    "roi_samples": 16,
    "detections": 10,
}


class World:
    """Inputs of every stage, made once in `folder`, and each stage's command line."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.raw = folder / "raw"
        # How long a case takes that nothing disturbs.
        self.seconds: dict[Any, float] = {}
        # Imported here: the miniature and the small results are of no use to a command's process.
        from slimclr.miniature.write import write_miniature
        from slimclr.stages.data import convert, extract
        from tests.helpers.reference_checkpoints import made, saved
        from tests.helpers.small_results import write_results

        write_miniature(self.raw, classes=4, train_per_class=12, val_per_class=8, coco_train=8, coco_val=4)
        archive, devkit = self.raw / "ILSVRC2012_img_{}.tar", self.raw / "ILSVRC2012_devkit_t12.tar.gz"
        for split in ("train", "val"):
            chosen = Path(str(archive).format(split))
            extract(split, archive=chosen, devkit=devkit, expect="subset", out=folder / split, jobs=1)
            convert(folder=folder / split, out=folder / f"{split}.lmdb")
        (folder / "foreign").mkdir()
        self.foreign = saved(folder / "foreign", made("mocov2_slim", "encoder_q.")[1])
        write_results(folder)
        assert main(self.command("pretrain", folder / "trained", epochs=2)) == 0
        self.weights = folder / "trained/out/weights.safetensors"

    def command(self, stage: str, out: Path, **recipe: Any) -> list[str]:
        """`slimclr`'s arguments of a stage that writes below `out`; `recipe` changes what is trained."""
        inputs = {
            "extract": ["--split", "train", "--archive", self.raw / "ILSVRC2012_img_train.tar", "--expect", "subset"],
            "extract straight": ["--split", "train", "--archive", self.raw / "ILSVRC2012_img_train.tar"],
            "convert": ["--folder", self.folder / "train", "--out", out / "train.lmdb"],
            "import": [self.folder / "foreign/net.pth.tar", "--no-hash-check", "--out", out / "pretrain/foreign"],
            "pretrain": ["--data", self.folder / "train.lmdb", "--out", out / "out"],
            "probe": ["--train", self.folder / "train.lmdb", "--val", self.folder / "val.lmdb"],
            "transfer": ["--coco", self.raw / "coco"],
            "report": ["--results", self.folder / "results", "--references", self.folder / "references.yaml"],
        }[stage]
        more: list[Any] = {
            "extract": ["--out", out / "train", "--jobs", 2],
            "extract straight": [
                "--expect",
                "subset",
                "--out",
                out / "train",
                "--lmdb",
                out / "train.lmdb",
                "--jobs",
                2,
            ],
            "report": ["--out", out / "report", "--config", self._config],
        }.get(stage, [])
        if stage in ("pretrain", "probe", "transfer"):
            base = {"pretrain": PRETRAIN, "probe": PROBE, "transfer": TRANSFER}[stage]
            more = ["--name", "x", "--checkpoints", out / "work", "--recipe", json.dumps(base | recipe)]
        if stage in ("probe", "transfer"):
            more += ["--weights", self.weights, "--out", out / "metrics.json"]
        return [stage.split()[0], *map(str, [*inputs, *more])]

    @cached_property
    def _config(self) -> str:
        run = {
            "pretrain": {"method": {"name": "mocov2"}, "epochs": 2, "optimizer": {"lr": 0.03}},
            "probe": {"epochs": 1, "optimizer": {"lr": 1.0}},
        }
        return json.dumps({"name": "a config", "config": {"runs": ["plain"]}, "recipes": {"plain": run}})


def outcome(stage: str, out: Path) -> Any:
    """What a finished stage left, without what differs from run to run: times, paths, a database's layout."""
    if stage.startswith("extract"):
        files = [path for path in (out / "train").rglob("*") if path.suffix in (".JPEG", ".parquet")]
        images = {str(path.relative_to(out)): sha256(path) for path in files}
        return images, lmdb_content(out / "train.lmdb") if stage == "extract straight" else None
    if stage == "convert":
        return lmdb_content(out / "train.lmdb")
    if stage == "import":
        return sha256(out / "pretrain/foreign/weights.safetensors")
    if stage == "pretrain":
        return sha256(out / "out/weights.safetensors"), json.loads((out / "out/metrics.json").read_text())["widths"]
    if stage in ("probe", "transfer"):
        return json.loads((out / "metrics.json").read_text())["widths"]
    return {name: sha256(out / "report" / name) for name in ("tables.md", "tables.csv", "tables.tex")}


class Starter:
    """`slimclr` in processes of their own, in sessions of their own, that have imported what they need."""

    def __init__(self) -> None:
        modules = ["slimclr.stages.transfer"] if MMDET else []
        if not MMDET:
            modules += ["slimclr.stages.probe", "slimclr.stages.pretrain", "slimclr.stages.report"]
            modules += ["slimclr.stages.data", "slimclr.stages.import_checkpoint", "torch.utils.tensorboard"]
            modules += ["slimclr.data.loading.dali"] if find_spec("nvidia.dali") else []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(modules)

    def start(self, command: list[str], log: Path, **limits: int) -> BaseProcess:
        """Start it; its streams go to `log`, and `limits` are of `resource`, for instance RLIMIT_NOFILE=20."""
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._context.Process(target=_command, args=(command, log, limits))
        process.start()
        return process

    def run(self, command: list[str], log: Path, **limits: int) -> int | None:
        """The exit code; None after ten minutes."""
        process = self.start(command, log, **limits)
        process.join(600)
        return process.exitcode


def _command(command: list[str], log: Path, limits: dict[str, int]) -> None:
    import resource

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # what a process has that was started as usual
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.argv = ["slimclr", *command]
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    # As the interpreter's end; multiprocessing would leave out what libraries registered.
    atexit._run_exitfuncs()
    os._exit(code)


def holders(log: Path) -> list[int]:
    """Processes that have a file open: all that a command started and that still live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(link) == str(log) for link in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:  # it ended, or is someone else's
            continue
    return [process for process in found if process != os.getpid()]


def left_over(log: Path, seconds: float = PATIENCE_SECONDS) -> list[int]:
    """Which of a command's processes still live after so many seconds; they are killed then."""
    until = time.monotonic() + seconds
    while (found := holders(log)) and time.monotonic() < until:
        time.sleep(0.05)
    for process in found:
        os.kill(process, signal.SIGKILL)
    return found


@dataclass
class Tally:
    """What was tried and what held, by kind; `verbose` prints every case that did not."""

    kinds: dict[str, list[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, case: str, held: bool, told: str = "") -> None:
        """Count one case; `told` is what it said, for one that did not hold."""
        counts = self.kinds.setdefault(kind, [0, 0])
        counts[0] += 1
        counts[1] += held
        if not held:
            self.failures.append(f"{kind}: {case}: {told[-1500:]}")
            print(f"DID NOT HOLD: {self.failures[-1]}", flush=True)

    def table(self) -> str:
        """Markdown."""
        lines = ["| | tried | held |", "| --- | ---: | ---: |"]
        return "\n".join([*lines, *(f"| {kind} | {tried} | {held} |" for kind, (tried, held) in self.kinds.items())])


def one_line(told: str) -> bool:
    """Whether a refusal is one clear line: an error of ours, no traceback, nothing that steers a terminal."""
    lines = [line for line in told.splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("slimclr ") and ": error: " in line]
    return bool(refusals) and "Traceback" not in told and all(line.isprintable() for line in refusals)
