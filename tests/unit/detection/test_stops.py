"""A transfer that is killed, asked to stop or meets damage; needs mmdet (see test_in_venv.py)."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is in .venvs/detection only; test_in_venv.py runs these tests there")

from slimclr.cli import main
from tests.helpers.kill_group import kill_group
from tests.helpers.small_detection import SHORT

STEPS = 24


class Transfer:
    """`slimclr transfer`, always the same one, in processes of their own that have mmdet already."""

    def __init__(self, weights: Path, coco: Path):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["slimclr.stages.transfer"])
        self.inputs = ["--weights", str(weights), "--coco", str(coco), "--recipe", json.dumps(SHORT)]

    def start(self, folder: Path) -> BaseProcess:
        folder.mkdir(exist_ok=True)
        out = ["--out", str(folder / "metrics.json"), "--checkpoints", str(folder / "work")]
        arguments = ["transfer", "--name", "x", *self.inputs, *out]
        process = self.context.Process(target=_command, args=(arguments, folder.with_name(f"{folder.name}.log")))
        process.start()
        return process

    def run(self, folder: Path) -> int | None:
        process = self.start(folder)
        process.join()
        return process.exitcode


def _command(arguments: list[str], log: Path) -> None:
    os.setsid()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(main(arguments))


@pytest.fixture(scope="module")
def transfer(weights: Path, coco: Path) -> Transfer:
    return Transfer(weights, coco)


@pytest.fixture(scope="module")
def whole(transfer: Transfer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing disturbed, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    # The first one waits for the imports.
    process = transfer.context.Process(target=os.getpid)
    process.start(), process.join()
    began = time.monotonic()
    assert transfer.run(folder) == 0, log(folder)
    return folder, time.monotonic() - began


@pytest.fixture
def copy(whole: tuple[Path, float], tmp_path: Path) -> Path:
    shutil.copytree(whole[0], tmp_path / "copy")
    return tmp_path / "copy"


def log(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text()


def newest(folder: Path) -> Path:
    return sorted(folder.glob("work/*/*/step_*.pt"))[-1]


def assert_equal(first: Path, second: Path) -> None:
    """Results, the detector and the last checkpoint, to the last digit."""
    metrics = [json.loads((folder / "metrics.json").read_text())["widths"] for folder in (first, second)]
    assert metrics[0] == metrics[1]
    assert len({(folder / "detector.safetensors").read_bytes() for folder in (first, second)}) == 1
    assert newest(first).name == newest(second).name == f"step_{STEPS:08d}.pt"
    states = [_flat(torch.load(newest(folder), weights_only=True)) for folder in (first, second)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        other = states[1][key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, key


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict | list):
        return {prefix: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: leaf for key, item in pairs for name, leaf in _flat(item, f"{prefix}.{key}").items()}


def wait_for_step(process: BaseProcess, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        if list(folder.glob("work/*/*/step_*.pt")) and int(newest(folder).stem.removeprefix("step_")) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step}: {log(folder)}")


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_five_random_moments(transfer: Transfer, whole: tuple[Path, float], tmp_path: Path, seed) -> None:
    (undisturbed, seconds), generator = whole, random.Random(seed)
    folder = tmp_path / "killed"
    for _ in range(5):
        process = transfer.start(folder)
        process.join(generator.uniform(0, 0.8) * seconds)
        if process.exitcode is None:
            kill_group(process)
        process.join()
    assert transfer.run(folder) == 0, log(folder)
    assert_equal(undisturbed, folder)


def test_signals_stop_it_at_a_step(transfer: Transfer, whole: tuple[Path, float], tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    signals = ("SIGTERM", "SIGUSR1", "SIGTERM", "SIGTERM", "SIGTERM", "SIGTERM")
    for name, step in zip(signals, (2, 6, 9, 12, 15, 18), strict=True):
        process = transfer.start(folder)
        wait_for_step(process, folder, step)
        # To its loader workers, too, as Slurm does.
        os.killpg(process.pid, getattr(signal, name))
        process.join()
        assert process.exitcode == 75, log(folder)
        assert f"slimclr transfer: transfer x: asked to stop ({name}) and stopped after step" in log(folder)
        assert not (folder / "metrics.json").exists()
    assert transfer.run(folder) == 0, log(folder)
    assert "transfer x: going on after step" in log(folder)
    assert_equal(whole[0], folder)


def test_a_flipped_bit_is_noticed(transfer: Transfer, whole: tuple[Path, float], copy: Path) -> None:
    path = newest(copy)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert transfer.run(copy) == 0, log(copy)
    assert f"{path}: damaged, its checksum does not fit; going on from the checkpoint before" in log(copy)
    assert path.with_name(f"{path.name}.damaged").exists()
    assert_equal(whole[0], copy)


class Foreign:
    """Makes a file when it is unpickled the ordinary way."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.made}",)


def test_a_foreign_pickle_is_not_run(transfer: Transfer, copy: Path, tmp_path: Path) -> None:
    folder, made = newest(copy).parent, tmp_path / "made"
    # Where mmengine would look, and where ours lie: with its checksum, and without.
    for name in ("epoch_9.pth", "step_00000098.pt", "step_00000099.pt"):
        torch.save({"step": Foreign(made)}, folder / name)
    (folder / "last_checkpoint").write_text(str(folder / "epoch_9.pth"))
    foreign = folder / "step_00000098.pt"
    digest = hashlib.sha256(foreign.read_bytes()).hexdigest()
    foreign.with_name(f"{foreign.name}.sha256").write_text(f"{digest}  {foreign.name}\n")
    assert transfer.run(copy) == 2
    assert f"{folder}/step_00000099.pt: its checksum is missing; going on from the checkpoint before" in log(copy)
    assert f"{folder}: mmengine's checkpoints, of an earlier version, are not used" in log(copy)
    error = log(copy).splitlines()[-1]
    assert error.startswith(f"slimclr transfer: error: {foreign}: not a checkpoint (")
    assert "Traceback" not in log(copy)
    assert not made.exists()
    torch.load(foreign, weights_only=False)
    assert made.exists()


def test_the_same_transfer_twice_is_refused(transfer: Transfer, tmp_path: Path) -> None:
    first = transfer.start(tmp_path / "run")
    wait_for_step(first, tmp_path / "run", 1)
    os.killpg(first.pid, signal.SIGSTOP)
    assert transfer.run(tmp_path / "run") == 2
    os.killpg(first.pid, signal.SIGKILL)
    first.join()
    folder = newest(tmp_path / "run").parent
    line = f"slimclr transfer: error: {folder}: the same run is being trained by another process; wait for it or end it"
    assert log(tmp_path / "run").splitlines()[-1] == line


def test_a_full_disk_is_one_line(transfer: Transfer, whole: tuple[Path, float], small_disk) -> None:
    disk, enlarge = small_disk
    folder = disk / "run"
    folder.mkdir()
    size = newest(whole[0]).stat().st_size
    # Room for a checkpoint and the logs, not for two.
    (disk / "filler").write_bytes(bytes(max(0, (1 << 20) - 60_000 - int(1.5 * size))))
    assert transfer.run(folder) == 2
    lines = (disk / "run.log").read_text().splitlines()
    assert "the disk is full; free space and run this stage again" in lines[-1], lines
    assert not any("Traceback" in line for line in lines), lines
    enlarge()
    assert transfer.run(folder) == 0, log(folder)
    assert_equal(whole[0], folder)
