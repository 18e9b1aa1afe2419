"""A small world of every stage's inputs, commands in processes that are quickly started, and a tally."""

import atexit
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from slimclr.cli import main
from slimclr.files import sha256
from tests.helpers.small_detection import SHORT
from tests.helpers.small_recipe import RECIPE

MMDET = find_spec("mmdet") is not None
PATIENCE_SECONDS = 30
PRETRAIN = RECIPE | {
    "method": {"name": "mocov2", "dim": 16, "queue": 32},
    "batch": 16,
    "bn_batch": 8,
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
RECIPES = {
    "pretrain": PRETRAIN,
    "probe": PROBE,
    "quick": {"image_size": 32, "resize": 36, "workers": 0, "neighbours": [3, 10], "temperatures": [0.1]},
    "finetune": PROBE | {"optimizer": {"lr": 0.05}, "head_lr": 0.5},
    "transfer": SHORT | {"epochs": 3, "milestones": [2]},
}
READ_IMAGES = ("pretrain", "probe", "quick", "finetune")
"""Stages that have both loaders and their workers."""


class World:
    """Inputs of every stage, made once in `folder`, and each stage's command line."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.raw = folder / "raw"
        # How long a case takes that nothing disturbs.
        self.seconds: dict[Any, float] = {}
        # Imported here: what makes the inputs is of no use to a command's process.
        from slimclr.miniature.write import write_miniature

        write_miniature(self.raw, classes=4, train_per_class=12, val_per_class=8, coco_train=8, coco_val=4)
        self.weights = self.folder / ("weights.safetensors" if MMDET else "trained/out/weights.safetensors")
        if MMDET:
            self._draw_weights()
        else:
            self._run_stages()

    def _draw_weights(self) -> None:
        """Where mmdet is, what the earlier stages need is not."""
        from slimclr.nn import SlimmableResNet
        from slimclr.nn.weights import save_weights

        network = SlimmableResNet(14, 8, (1.0, 0.5), zero_init_residual=False)
        tensors = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
        save_weights(self.weights, tensors, {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]})

    def _run_stages(self) -> None:
        from slimclr.stages.data import convert, extract
        from tests.helpers.reference_checkpoints import made, saved
        from tests.helpers.small_results import write_results

        devkit = self.raw / "ILSVRC2012_devkit_t12.tar.gz"
        for split in ("train", "val"):
            archive = self.raw / f"ILSVRC2012_img_{split}.tar"
            extract(split, archive=archive, devkit=devkit, expect="subset", out=self.folder / split, jobs=1)
            convert(folder=self.folder / split, out=self.folder / f"{split}.lmdb")
        (self.folder / "foreign").mkdir()
        saved(self.folder / "foreign", made("mocov2_slim", "encoder_q.")[1])
        write_results(self.folder)
        assert main(self.command("pretrain", self.folder / "trained", epochs=2)) == 0

    def command(self, stage: str, out: Path, **recipe: Any) -> list[str]:
        """`slimclr`'s arguments of a stage that writes below `out`; `recipe` changes what is trained."""
        archive = ["--split", "train", "--archive", self.raw / "ILSVRC2012_img_train.tar", "--expect", "subset"]
        archive += ["--out", out / "train", "--jobs", 2]
        images = ["--train", self.folder / "train.lmdb", "--val", self.folder / "val.lmdb"]
        results = ["--results", self.folder / "results", "--references", self.folder / "references.yaml"]
        words: list[Any] = {
            "extract": archive,
            "extract straight": [*archive, "--lmdb", out / "train.lmdb"],
            "convert": ["--folder", self.folder / "train", "--out", out / "train.lmdb"],
            "import": [self.folder / "foreign/net.pth.tar", "--no-hash-check", "--out", out / "pretrain/foreign"],
            "pretrain": ["--data", self.folder / "train.lmdb", "--out", out / "out"],
            "probe": [*images, "--weights", self.weights, "--out", out / "metrics.json"],
            "quick": [*images, "--weights", self.weights, "--out", out / "metrics.json"],
            "finetune": [*images, "--weights", self.weights, "--out", out / "out"],
            "transfer": ["--coco", self.raw / "coco", "--weights", self.weights, "--out", out / "metrics.json"],
            "export": [self.weights, "--width", 0.5, "--no-card", "--out", out / "export"],
            "report": [*results, "--out", out / "report", "--config", self._config],
        }[stage]
        if stage in RECIPES:
            words += ["--name", "x", "--checkpoints", out / "work", "--recipe", json.dumps(RECIPES[stage] | recipe)]
        return [stage.split()[0], *map(str, words)]

    @cached_property
    def _config(self) -> str:
        run = {
            "pretrain": {"method": {"name": "random"}, "epochs": 0},
            "probe": {"epochs": 1, "optimizer": {"lr": 1.0}},
        }
        return json.dumps(
            {"name": "a config", "config": {"runs": ["random_resnet50"]}, "recipes": {"random_resnet50": run}}
        )


def outcome(stage: str, out: Path) -> Any:
    """What a finished stage left, without what differs from run to run: times, paths, a database's layout."""
    from tests.helpers.tar_tools import lmdb_content

    if stage.startswith("extract"):
        files = [path for path in (out / "train").rglob("*") if path.suffix in (".JPEG", ".parquet")]
        images = {str(path.relative_to(out)): sha256(path) for path in files}
        return images, lmdb_content(out / "train.lmdb") if stage == "extract straight" else None
    if stage == "convert":
        return lmdb_content(out / "train.lmdb")
    if stage == "import":
        return sha256(out / "pretrain/foreign/weights.safetensors")
    if stage in ("pretrain", "finetune"):
        return sha256(out / "out/weights.safetensors"), json.loads((out / "out/metrics.json").read_text())["widths"]
    if stage in ("probe", "quick", "transfer"):
        return json.loads((out / "metrics.json").read_text())["widths"]
    return {name: sha256(out / "report" / name) for name in ("tables.md", "tables.csv", "tables.tex")}


class Starter:
    """`slimclr` in processes of their own, in sessions of their own, that have imported what they need."""

    def __init__(self) -> None:
        modules = ["slimclr.stages.transfer"] if MMDET else []
        if not MMDET:
            modules += [f"slimclr.stages.{name}" for name in ("probe", "quick", "finetune", "pretrain", "report")]
            modules += ["slimclr.stages.data", "slimclr.stages.import_checkpoint", "torch.utils.tensorboard"]
            modules += ["slimclr.data.loading.dali"] if has("nvidia.dali") else []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(modules)

    def start(self, command: list[str], log: Path, before: Callable[[], object] | None = None) -> BaseProcess:
        """Start it; its streams go to `log`. `before` is called in its process first, for instance to set limits."""
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._context.Process(target=_command, args=(command, log, before))
        process.start()
        return process

    def run(self, command: list[str], log: Path) -> int | None:
        """The exit code; None after ten minutes."""
        process = self.start(command, log)
        process.join(600)
        return process.exitcode

    def timed(self, command: list[str], folder: Path) -> float:
        """Seconds of an undisturbed run into an empty folder, the second one: the first also waits for imports."""
        for _ in range(2):
            shutil.rmtree(folder, ignore_errors=True)
            began = time.monotonic()
            assert self.run(command, folder / "log") == 0, (folder / "log").read_text()
        return time.monotonic() - began


def _command(command: list[str], log: Path, before: Callable[[], object] | None) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # what a process has that was started as usual
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["slimclr", *command]
    try:
        if before:
            before()
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


def has(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


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
    """What was tried and what held, by kind; a case that did not hold is printed."""

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
