"""GPUs of a machine, made up, and runs that take them."""

import os
import signal
import subprocess
import sys

import pytest

from slimclr.errors import UserError
from slimclr.machine import gpu_names, gres_gpus, take_gpus

# Takes GPUs, says which, and holds them until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from slimclr.machine import take_gpus
count, names, folder = sys.argv[1:]
print(*take_gpus(int(count), names.split(","), folder=Path(folder))[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Starts processes that take GPUs."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    started = []

    def start(count, names="0,1"):
        command = [sys.executable, "-c", HOLDER, str(count), names, tmp_path]
        started.append(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def taken(process):
    return process.stdout.readline().split()


def test_two_runs_get_different_gpus(holder):
    both = [holder(1), holder(1)]
    assert sorted(map(taken, both)) == [["0"], ["1"]]


def test_three_wanted_with_two_there_waits_and_then_says_so_in_one_line(holder, tmp_path):
    both = [holder(1), holder(1)]
    first = taken(both[0])
    taken(both[1])
    with pytest.raises(UserError, match=r"1 GPUs needed, but 0 of 2 are free .*; wait for the other runs") as raised:
        take_gpus(1, ["0", "1"], folder=tmp_path, patience=0.5)
    assert "\n" not in str(raised.value)
    third = holder(1)
    both[0].communicate()
    assert taken(third) == first


def test_a_killed_run_frees_its_gpus(holder, tmp_path):
    killed = holder(2)
    assert taken(killed) == ["0", "1"]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    names, locks = take_gpus(2, ["0", "1"], folder=tmp_path, patience=0)
    assert names == ["0", "1"]
    for lock in locks:
        os.close(lock)


def test_a_run_takes_all_that_it_needs_or_none(holder, tmp_path):
    assert taken(holder(1)) == ["0"]
    with pytest.raises(UserError, match="2 GPUs needed, but 1 of 2 are free"):
        take_gpus(2, ["0", "1"], folder=tmp_path, patience=0.5)
    assert taken(holder(1)) == ["1"]


def test_the_choice_of_cuda_visible_devices_is_kept(holder, tmp_path, monkeypatch):
    for given, names in (
        ("2,3", ["2", "3"]),
        ("", []),
        ("1,-1,0", ["1"]),
        ("GPU-8f6a, MIG-3/1/0", ["GPU-8f6a", "MIG-3/1/0"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert gpu_names(4) == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_names(2) == ["0", "1"]
    assert taken(holder(1, "2,3")) == ["2"]
    assert taken(holder(2, "GPU-8f6a,MIG-3/1/0")) == ["GPU-8f6a", "MIG-3/1/0"]
    assert taken(holder(1, "2,3")) == ["3"]


def test_slurm_jobs_number_their_gpus_anew(holder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert taken(holder(1, "0")) == ["0"]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert taken(holder(1, "0")) == ["0"]


LAUNCH = """
import os, sys
import torch
from pathlib import Path
from slimclr import machine
from slimclr.engine import distributed
torch.cuda.device_count = lambda: 2
distributed.take_gpus = lambda count, names: machine.take_gpus(count, names, folder=Path(sys.argv[1]))
assert distributed.launch(1, []) is None
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def test_launched_runs_see_their_own_gpu_only(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen([sys.executable, "-c", LAUNCH, tmp_path], text=True, **pipes) for _ in range(2)]
    assert sorted(map(taken, both)) == [["0"], ["1"]]
    for process in both:
        process.communicate()


@pytest.mark.parametrize(("gres", "count"), [("gpu", 1), ("gpu:4", 4), ("gpu:a100:8", 8), ("gpu:a100_3g.20gb:2", 2)])
def test_gpus_in_slurms_gres(gres, count):
    assert gres_gpus(gres) == count


@pytest.mark.parametrize("gres", ["4", "lustre:1", "gpu:", "gpu:4:a100", "gpu:4,lustre:1"])
def test_a_gres_without_gpus_is_refused(gres):
    with pytest.raises(UserError, match="names no GPUs"):
        gres_gpus(gres)
