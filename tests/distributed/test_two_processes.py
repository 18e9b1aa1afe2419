"""Training with two gloo processes on 127.0.0.1."""

import json
import os
import subprocess
import sys

import pytest

from slimclr.data.miniature import write_miniature
from slimclr.nn.weights import load_backbone
from slimclr.stages.data import extract

RECIPE = {
    "backbone": {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]},
    "epochs": 2,
    "slow_start_epoch": 1,
    "batch": 32,
    "bn_batch": 16,
    "optimizer": {"lr": 0.05},
    "distillation": {},
    "loss_weights": "sub_sum_to_full",
    "image_size": 32,
    "workers": 0,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_miniature(folder, train_per_class=20, val_per_class=1, coco_train=1, coco_val=1)
    archive = folder / "ILSVRC2012_img_train.tar"
    extract("train", archive=archive, devkit=None, expect="subset", out=folder / "train")
    return folder / "train"


@pytest.mark.ddp
@pytest.mark.parametrize("method", ["mocov2", "simclr"])
def test_widths_join_at_slow_start_without_idle_parameters(data, tmp_path, method):
    recipe = RECIPE | {"method": {"name": method, "dim": 16} | ({"queue": 64} if method == "mocov2" else {})}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "slimclr"]
    job = ["pretrain", "--name", "two", "--data", data, "--out", tmp_path / "out", "--checkpoints", tmp_path / "work"]
    done = subprocess.run(
        [*launcher, *job, "--recipe", json.dumps(recipe)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unused" not in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [sorted(line["widths"]) for line in lines] == [["1.0"]] * 5 + [["0.5", "1.0"]] * 5
    backbone, meta = load_backbone(tmp_path / "out/weights.safetensors")
    assert meta["method"] == method
    assert backbone.widths == (1.0, 0.5)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert "with one process the keys' batch norm is not shuffled" not in metrics["comparable_because"]
