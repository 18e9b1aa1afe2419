"""Training with two gloo processes on 127.0.0.1."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from slimclr.miniature.write import write_miniature
from slimclr.nn.weights import load_backbone
from slimclr.stages.data import extract
from tests.helpers.small_recipe import RECIPE

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_miniature(folder, train_per_class=20, val_per_class=1, coco_train=1, coco_val=1)
    archive = folder / "ILSVRC2012_img_train.tar"
    extract("train", archive=archive, devkit=None, expect="subset", out=folder / "train")
    return folder / "train"


def start(data, folder, recipe, stdout=subprocess.DEVNULL):
    job = ["pretrain", "--name", "two", "--data", data, "--out", folder / "out", "--checkpoints", folder / "work"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.launch_job", *job, "--recipe", json.dumps(recipe)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Folder of an undisturbed run of a recipe, made once, and what it printed and warned."""
    done = {}

    def run(recipe):
        key = json.dumps(recipe)
        if key not in done:
            folder = tmp_path_factory.mktemp("whole")
            with start(data, folder, recipe, subprocess.PIPE) as process:
                printed, warned = process.communicate()
            assert process.returncode == 0, warned[-3000:]
            done[key] = folder, printed, warned
        return done[key]

    return run


def last_state(folder):
    """The newest checkpoint of a run."""
    return torch.load(sorted(folder.glob("work/*/seed0/step_*.pt"))[-1], weights_only=True)


def assert_same(one, other):
    """Two runs ended with the same weights, queue and optimiser."""
    one, other = last_state(one), last_state(other)
    assert one["step"] == other["step"] == 40
    for name, tensor in one["method"].items():
        # the second process's statistics are not kept: they decide nothing
        assert torch.equal(other["method"][name], tensor), name
    for number, state in one["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], other["optimizer"]["state"][number]["momentum_buffer"]), number


LONG = {"epochs": 8, "knn": {"every": 1, "bank": 100, "queries": 60}}
MOCO_V2 = {"method": {"name": "mocov2", "dim": 16, "queue": 64}}
SIMCLR = {"method": {"name": "simclr", "dim": 16}}


@pytest.mark.parametrize("changes", [MOCO_V2, SIMCLR], ids=["mocov2", "simclr"])
def test_widths_join_at_slow_start_without_idle_parameters(whole, changes):
    folder, printed, warned = whole(RECIPE | changes | LONG)
    assert "unused" not in warned
    assert "strides" not in warned
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    assert [sorted(line["widths"]) for line in lines if "widths" in line] == [["1.0"]] * 5 + [["0.5", "1.0"]] * 35
    backbone, meta = load_backbone(folder / "out/weights.safetensors")
    assert meta["method"] == changes["method"]["name"]
    assert backbone.widths == (1.0, 0.5)
    metrics = json.loads((folder / "out/metrics.json").read_text())
    told = f"pretrain two: not comparable with the paper: {'; '.join(metrics['comparable_because'])}"
    assert told.startswith("pretrain two: not comparable with the paper: it is not a run of the paper")
    assert printed.count(told) == 1
    assert "with one process the keys' batch norm is not shuffled" not in metrics["comparable_because"]


@pytest.mark.timeout(1200)  # DALI's views are compiled in six processes
@pytest.mark.parametrize(
    ("whom", "changes"),
    [
        ("the launcher", MOCO_V2),
        ("all processes", MOCO_V2),
        ("the launcher", MOCO_V2 | {"loader": "dali"}),
        ("the launcher", {"method": {"name": "mocov3", "dim": 16, "hidden": 32}}),
        ("the launcher", SIMCLR),
    ],
    ids=["mocov2", "mocov2, all signalled", "mocov2, dali", "mocov3", "simclr"],
)
def test_asked_to_stop_both_processes_leave_one_checkpoint_and_go_on_exactly(data, whole, tmp_path, whom, changes):
    recipe = RECIPE | changes | LONG
    undisturbed, *_ = whole(recipe)
    folder = tmp_path / "stopped"
    with start(data, folder, recipe) as stopped:
        while not list(folder.glob("work/*/seed0/step_*.pt")) and stopped.poll() is None:
            time.sleep(0.01)
        asked = time.monotonic()
        if whom == "the launcher":
            stopped.send_signal(signal.SIGUSR1)
        else:  # as Slurm does
            os.killpg(stopped.pid, signal.SIGTERM)
        code, told = stopped.wait(), stopped.stderr.read()
    assert code == 75, told[-3000:]
    assert time.monotonic() - asked < 30
    assert "run this stage again, it goes on from there" in told
    assert "Traceback" not in told
    assert 0 < last_state(folder)["step"] < 40
    assert not (folder / "out/metrics.json").exists()
    with start(data, folder, recipe) as resumed:
        assert resumed.wait() == 0, resumed.stderr.read()[-3000:]
    assert_same(undisturbed, folder)
    records = [(path / "out/metrics.jsonl").read_text().splitlines() for path in (undisturbed, folder)]
    seen = [[line["knn"] for line in map(json.loads, lines) if "knn" in line] for lines in records]
    assert len(seen[0]) == 8
    assert seen[0] == seen[1]
    assert len(last_state(folder)["random"]) == 2


def test_two_runs_at_the_same_time_do_not_disturb_each_other(data, whole, tmp_path):
    recipe = RECIPE | MOCO_V2 | LONG
    with start(data, tmp_path / "one", recipe) as one, start(data, tmp_path / "other", recipe) as other:
        told = [process.communicate(timeout=300)[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    alone, *_ = whole(recipe)
    assert_same(alone, tmp_path / "one")
    assert_same(alone, tmp_path / "other")


def test_a_loss_that_is_not_finite_ends_both_processes_with_a_line(data, tmp_path):
    recipe = RECIPE | SIMCLR | {"optimizer": {"lr": 1e12}}
    with start(data, tmp_path, recipe) as process:
        told = process.communicate(timeout=300)[1]
    assert process.returncode != 0
    assert "lower optimizer.lr and rerun" in told
    (left,) = {path.parent for path in tmp_path.glob("work/*/seed0/errors/rank_*.log")}
    assert {path.name for path in left.iterdir()} == {"rank_0.log", "rank_1.log"}


def test_a_number_that_is_not_finite_once_moves_nothing_more_and_is_in_no_checkpoint(data, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.helpers.not_finite_job", data, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [torch.load(tmp_path / f"told_{rank}.pt", weights_only=True) for rank in range(2)]
    assert "the loss is nan at step 2 " in told[1]["error"]
    for rank, one in enumerate(told):
        # The gradients are averaged, so the other process sees them, too.
        assert "parameters have gradients that are not finite" in one["error"]
        assert "at step 2 " in one["error"]
        assert one["first step moved"]
        assert not one["later ones moved"]
        assert torch.load(tmp_path / f"not_finite_step_00000002_rank_{rank}.pt", weights_only=True)["step"] == 2
    # The wish for one after step 1 is met after step 2, whose weights are those of step 1, but not its statistics.
    assert list(tmp_path.glob("step_*.pt")) == []
