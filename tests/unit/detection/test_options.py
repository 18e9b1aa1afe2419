"""What a recipe of the transfer may say besides the paper's; needs mmdet (see test_in_venv.py)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is in .venvs/detection only; test_in_venv.py runs these tests there")

from mmengine.runner import Runner

import slimclr.stages.transfer as stage
from slimclr.config import Detection
from slimclr.detection.check import check_coco
from slimclr.detection.kept import load_detector
from slimclr.detection.optimisation import optimisation
from slimclr.detection.recipe import build_config
from slimclr.errors import UserError
from slimclr.nn.weights import load_backbone
from tests.helpers.small_detection import SIZES

RECIPE = SIZES | {"epochs": 1, "milestones": [1], "batch": 4, "lr": 0.01, "warmup_iterations": 2, "workers": 0}
RECIPE |= {"image_scale": [64, 64]}


def _stage(weights: Path, coco: Path, folder: Path, **changes: Any) -> dict[str, dict[str, float]]:
    """Average precisions by width."""
    recipe = Detection.model_validate(RECIPE | changes)
    run = {"run": "x", "seed": 0, "out": folder / "metrics.json", "checkpoints": folder / "work"}
    stage.transfer(recipe, weights=weights, coco=coco, **run)
    return json.loads((folder / "metrics.json").read_text())["widths"]


def test_one_width_alone(
    weights: Path, coco: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only other widths use stays as it was. What is said: how far it is, and what was waited for."""
    monkeypatch.setattr("slimclr.progress.PLAIN_INTERVAL_SECONDS", 0.0)
    assert set(_stage(weights, coco, tmp_path, widths=[0.5])) == {"0.5"}
    said = capfd.readouterr()
    assert "transfer x: 2/2 steps" in said.err
    assert "lr 0.01, waiting for data" in said.err
    assert "transfer x, evaluation: 4/4 batches" in said.err
    assert "mmengine" not in said.out + said.err
    detector = load_detector(tmp_path)
    assert detector.widths == (0.5,)
    before, _ = load_backbone(weights)
    moved = dict.fromkeys(("conv1.weight", "bn1.norms.0_5.weight"), True)
    for name, tensor in before.named_parameters():
        after = detector.backbone.network.get_parameter(name)
        if ".norms.1_0." in name or name in moved:
            assert torch.equal(tensor, after) != moved.get(name, False), name
    used = before.conv1.out_slices[0.5].stop
    # Weight decay alone reaches the channels of the other width.
    ratio = detector.backbone.network.conv1.weight[used:] / before.conv1.weight[used:]
    assert ratio.min().item() == pytest.approx(ratio.max().item(), rel=1e-5)


def test_a_width_that_the_backbone_lacks_is_one_line(weights: Path, coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"detection.widths \[0.3\]: the backbone has 1.0, 0.5; name some of these"):
        _stage(weights, coco, tmp_path, widths=[0.3])


def test_faster_rcnn(weights: Path, coco: Path, tmp_path: Path) -> None:
    widths = _stage(weights, coco, tmp_path, masks=False)
    assert all(name.startswith("box_") for values in widths.values() for name in values)
    assert not any("mask" in name for name in load_detector(tmp_path).state_dict())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(weights: Path, coco: Path, tmp_path: Path, precision: str) -> None:
    """The same losses but for rounding; weights and the maps that RoIAlign reads stay in single precision."""
    losses = {}
    for kind in ("fp32", precision):
        torch.manual_seed(0)
        runner = _runner(weights, coco, tmp_path / kind, precision=kind)
        runner.model.train()
        runner.model.init_weights()
        data = next(iter(runner.build_dataloader(runner.cfg.eval_dataloader, seed=0)))
        with runner.optim_wrapper.optim_context(runner.model):
            maps = runner.model.extract_feat((runner.model.data_preprocessor(data)["inputs"], 0.5))
        assert all(level.dtype == torch.float32 and level.is_contiguous() for level in maps)
        loader = runner.train_loop.dataloader
        losses[kind] = runner.model.train_step(next(iter(loader)), runner.optim_wrapper)["loss"].item()
        assert all(tensor.dtype == torch.float32 for tensor in runner.model.parameters())
    assert losses[precision] != losses["fp32"]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.1)


def _runner(weights: Path, coco: Path, folder: Path, **changes: Any) -> Runner:
    config = build_config(
        weights=weights,
        stage_channels=(32, 64, 128, 256),
        coco=coco,
        classes=check_coco(coco),
        checkpoints=folder,
        seed=0,
        flip=0.0,
        momentum=0.9,
        weight_decay=1e-4,
        grad_clip=5.0,
        **{"warmup_ratio": 0.001, **RECIPE, **changes},
    )
    config.experiment_name = folder.name
    runner = Runner.from_cfg(config)
    runner._train_loop = runner.build_train_loop(config.train_cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    return runner


def test_sides_of_training_images_are_drawn_by_the_seed(weights: Path, coco: Path, tmp_path: Path) -> None:
    """Photos have 72 x 64 pixels."""

    def sizes(epoch: int) -> list[int]:
        dataset = runner.train_loop.dataloader.dataset
        return [min(dataset[epoch, image]["inputs"].shape[1:]) for image in range(8)]

    runner = _runner(weights, coco, tmp_path, image_scale=(200, 64), short_sides=(32, 96))
    drawn = sizes(0) + sizes(1)
    assert len(set(drawn)) > 5
    assert min(drawn) >= 32
    assert max(drawn) <= 96
    assert sizes(0) == drawn[:8]


def test_rate_and_warm_up_follow_the_batch() -> None:
    settings = {"epochs": 12, "milestones": [8, 11], "momentum": 0.9, "weight_decay": 1e-4, "grad_clip": 35.0}
    settings |= {"lr": 0.08, "warmup_iterations": 500, "warmup_ratio": 0.001}
    for given, lr, steps in (({"lr_batch": 64}, 0.02, 2000), ({}, 0.08, 500)):
        config = optimisation(batch=16, **settings, **given)
        assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(lr)
        assert config["param_scheduler"][0]["end"] == steps
