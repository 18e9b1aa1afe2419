"""Validation while a training goes on: what is recorded, and that the training does not notice."""

import json

import pytest
import torch
from safetensors.torch import load_file

from slimclr.build.monitor import build_monitors
from slimclr.config import KNN, Pretrain
from slimclr.data.loading.loaders import validation_loader
from slimclr.engine.checkpoints import load_checkpoint
from slimclr.engine.distributed import Process
from slimclr.engine.loop import Trainer
from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.probe.knn import KNNMonitor
from slimclr.probe.validation import fixed_part
from slimclr.stages.pretrain import pretrain
from tests.helpers.small_recipe import RECIPE

ALONE = Process(0, 1, torch.device("cpu"))
SUPERVISED = RECIPE | {
    "method": {"name": "supervised"},
    "views": "normal",
    "slow_start_epoch": 0,
    "batch": 16,
    "distillation": None,
}


def trained(extracted, out, recipe, **options):
    pretrain(
        Pretrain.model_validate(recipe),
        run="r",
        seed=0,
        data=extracted,
        out=out,
        checkpoints=out / "checkpoints",
        gpus=0,
        paper=False,
        **options,
    )
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return load_file(out / "weights.safetensors"), [json.loads(line) for line in lines]


def test_a_supervised_training_records_its_accuracy_and_goes_on_as_without(extracted, tmp_path):
    plain, _ = trained(extracted, tmp_path / "plain", SUPERVISED)
    watched, lines = trained(
        extracted, tmp_path / "watched", SUPERVISED | {"validation": {"every": 2, "images": 5}}, val=extracted
    )
    assert all(torch.equal(watched[name], tensor) for name, tensor in plain.items())
    values = [line["val"] for line in lines if "val" in line]
    assert len(values) == 1
    assert values[0].keys() == {"1.0", "0.5"}
    assert values[0]["1.0"]["top1"] in [20.0 * right for right in range(6)]
    assert values[0]["1.0"]["top1"] <= values[0]["1.0"]["top5"]


def test_neighbours_classify_validation_images_too(images):
    backbone = SlimmableResNet(14, 8, (1.0, 0.5))
    val = validation_loader(images, resize=36, image_size=32, batch=16, workers=0, chosen=[0, 5, 7, 11])
    settings = KNN(bank=20, queries=10, neighbours=3)
    with_val = KNNMonitor(settings, backbone, images, image_size=32, seed=0, process=ALONE, val=val)()
    without = KNNMonitor(settings, backbone, images, image_size=32, seed=0, process=ALONE)()
    assert with_val["knn"] == without["knn"]
    assert without.keys() == {"knn"}
    assert all(value in [0.0, 25.0, 50.0, 75.0, 100.0] for value in with_val["knn_val"].values())


def test_the_same_images_every_time():
    assert fixed_part(100, 7, 3, key="validation.images") == fixed_part(100, 7, 3, key="validation.images")
    assert fixed_part(3, None, 0, key="validation.images") == [0, 1, 2]
    with pytest.raises(UserError, match=r"validation.images: 7 of 5 validation images; name fewer"):
        fixed_part(5, 7, 0, key="validation.images")


def test_what_is_missing_is_named(images, tmp_path):
    recipe = Pretrain.model_validate(SUPERVISED | {"validation": {}})
    with pytest.raises(UserError, match=r"pretrain.validation: no validation images at .*; name them with --val"):
        build_monitors(
            recipe, torch.nn.Identity(), SlimmableResNet(14, 8), images, tmp_path / "none", seed=0, process=ALONE
        )
    with pytest.raises(ValueError, match="validation: mocov2 has no classifier to validate; set knn or online as well"):
        Pretrain.model_validate(RECIPE | {"method": {"name": "mocov2", "queue": 64}, "validation": {}})


@pytest.mark.parametrize("method", ["mocov2", "mocov3", "simclr"])
def test_an_online_probe_learns_and_the_training_does_not_notice(extracted, tmp_path, method):
    own = {"mocov2": {"queue": 64}, "mocov3": {"hidden": 32, "dim": 16}, "simclr": {"dim": 16}}[method]
    recipe = RECIPE | {"method": {"name": method} | own, "batch": 16, "views": method}
    recipe["bn_batch"] = 8 if method == "mocov2" else 16
    plain, _ = trained(extracted, tmp_path / "plain", recipe)
    watched, lines = trained(extracted, tmp_path / "watched", recipe | {"online": {}, "validation": {}}, val=extracted)
    assert watched.keys() == plain.keys()
    assert all(torch.equal(watched[name], tensor) for name, tensor in plain.items())
    assert [line["val"].keys() for line in lines if "val" in line] == [{"1.0", "0.5"}] * 2
    (newest,) = sorted((tmp_path / "watched/checkpoints").rglob("*.pt"))[-1:]
    head = load_checkpoint(newest)["online"]["head"]
    assert all(tensor.abs().max() > 0.001 for name, tensor in head.items() if name.endswith("bias")), "it learnt"


def test_an_online_probe_goes_on_exactly(extracted, tmp_path, monkeypatch):
    recipe = RECIPE | {"method": {"name": "simclr", "dim": 16}, "batch": 16, "bn_batch": 16, "views": "simclr"}
    recipe |= {"online": {}, "validation": {}}
    _, wanted = trained(extracted, tmp_path / "whole", recipe, val=extracted)
    train_epoch = Trainer.train_epoch

    def stopped(self, epoch, *rest):
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, epoch, *rest)

    monkeypatch.setattr(Trainer, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(extracted, tmp_path / "parts", recipe, val=extracted)
    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    trained(extracted, tmp_path / "parts", recipe, val=extracted)
    states = [
        load_checkpoint(max((tmp_path / part / "checkpoints").rglob("*.pt")))["online"] for part in ("whole", "parts")
    ]
    for name, tensor in states[0]["head"].items():
        assert torch.equal(states[1]["head"][name], tensor)
    assert [line["val"] for line in wanted if "val" in line]
