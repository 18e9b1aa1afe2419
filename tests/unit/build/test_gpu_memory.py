"""Whether a batch fits on a GPU: from measured figures, or not at all."""

import json

import pytest

from slimclr.build.batch import plan_batch
from slimclr.build.gpu_memory import memory_verdicts
from slimclr.config import Pretrain
from slimclr.errors import UserError

RECIPE = {
    "method": {"name": "mocov2", "queue": 2048},
    "epochs": 1,
    "batch": 1024,
    "bn_batch": 256,
    "optimizer": {"lr": 0.1},
    "precision": "fp16",
}
ROW = {
    "method": "mocov2",
    "arch": "resnet50",
    "widths": [1.0, 0.75, 0.5, 0.25],
    "precision": "fp16",
    "image_size": 224,
    "activation_checkpointing": False,
    "gb_per_image": 0.1,
    "gb_beside": 2.0,
    "batches": [64, 128],
    "gb": [8.4, 14.8],
}


def verdicts(folder, gpus=4, rows=(ROW,), device_gb=80.0, **changes):
    recipe = Pretrain.model_validate(RECIPE | changes)
    (folder / "gpu-memory-x.json").write_text(json.dumps({"device": "X", "device_gb": device_gb, "rows": rows}))
    return memory_verdicts(recipe, plan_batch(recipe, gpus), folder)


def test_no_figure_is_made_up(tmp_path):
    recipe = Pretrain.model_validate(RECIPE)
    (line,) = memory_verdicts(recipe, plan_batch(recipe, 4), tmp_path)
    assert line.startswith("not measured: ")


def test_a_measured_line_says_whether_the_batch_fits(tmp_path):
    told = "27.6 of 80.0 GB of X (a line through 64 and 128 images, measured)"
    assert verdicts(tmp_path) == [f"fits: {told}"]
    assert verdicts(tmp_path, device_gb=24.0)[0].startswith("does not fit: 27.6 of 24.0 GB")
    # One GPU holds the step's three other batches: 3 x 256 images of 3 x 224 x 224 floats, three times each.
    images = 3 * 256 * 3 * (3 * 224 * 224 * 4) / 1e9
    assert verdicts(tmp_path, gpus=1)[0].startswith(f"fits: {27.6 + images:.1f} of 80.0 GB")


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"image_size": 160},
        {"activation_checkpointing": True},
        {"compile": True},
        {"backbone": {"depth": 50, "widths": [1.0, 0.5]}},
        {"views": "mocov2_diff"},
    ],
)
def test_a_step_that_was_not_measured_has_no_figure(tmp_path, changes):
    assert verdicts(tmp_path, **changes)[0].startswith("not measured: ")


def test_a_damaged_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gpu-memory-x\.json: not what make gpu-proof writes"):
        verdicts(tmp_path, rows=[{"method": "mocov2"}])
