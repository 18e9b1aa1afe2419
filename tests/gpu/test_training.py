"""Training on an NVIDIA GPU."""

import json

import pytest
import torch

from slimclr.miniature.write import write_miniature
from slimclr.nn.weights import load_backbone
from tests.helpers.small_recipe import RECIPE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU on this machine"),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_run_trains_and_its_weights_load_on_the_cpu(tmp_path, precision):
    # Extraction writes a manifest, a recipe is YAML; a machine with a GPU may have torch alone.
    for package in ("pyarrow", "yaml"):
        pytest.importorskip(package)
    from slimclr.config import Pretrain
    from slimclr.stages.data import extract
    from slimclr.stages.pretrain import pretrain

    write_miniature(tmp_path, train_per_class=20, val_per_class=1, coco_train=1, coco_val=1)
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    extract("train", archive=archive, devkit=None, expect="subset", out=tmp_path / "train")
    recipe = Pretrain.model_validate(
        RECIPE
        | {"method": {"name": "mocov2", "dim": 16, "queue": 64}, "bn_batch": 16, "precision": precision, "workers": 2}
    )
    out = tmp_path / "out"
    places = {"data": tmp_path / "train", "out": out, "checkpoints": tmp_path / "work"}
    pretrain(recipe, run="gpu", seed=0, gpus=1, paper=False, **places)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert all(line["loss"] is not None for line in lines)
    backbone, _ = load_backbone(out / "weights.safetensors")
    assert backbone(torch.zeros(1, 3, 64, 64), 0.5).shape == (1, 128)
