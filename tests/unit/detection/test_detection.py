"""What of detection can be tested in one process; needs mmdet (see test_in_venv.py for the environments without it)."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from slimclr.engine.preemption import Preempted
from slimclr.errors import UserError
from slimclr.nn.weights import save_weights

pytest.importorskip("mmdet", reason="mmdet is in .venvs/detection only; test_in_venv.py runs these tests there")

from mmdet.models.necks import FPN
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

import slimclr.stages.transfer as stage
from slimclr.cli import main
from slimclr.config import Detection
from slimclr.detection import transfer
from slimclr.detection.backbone import SlimmableBackbone
from slimclr.detection.kept import load_detector
from slimclr.detection.recipe import base_model, build_config
from slimclr.engine.checkpoints import load_checkpoint
from slimclr.nn import build_backbone
from slimclr.nn.layers import used_slices
from slimclr.nn.weights import read_weights
from tests.helpers.small_detection import SIZES

WIDTHS = (1.0, 0.5)
RECIPE = {
    "epochs": 1,
    "milestones": [1],
    "batch": 4,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "grad_clip": 5.0,
    "warmup_iterations": 2,
    "warmup_ratio": 0.001,
    "image_scale": (64, 64),
    "flip": 0.5,
    "seed": 0,
    "workers": 0,
    **SIZES,
}


def _runner(weights: Path, coco: Path, folder: Path) -> Runner:
    config = build_config(
        weights=weights,
        stage_channels=(32, 64, 128, 256),
        coco=coco,
        classes=transfer.check_coco(coco),
        checkpoints=folder,
        **RECIPE,
    )
    return Runner.from_cfg(config)


def test_first_channels_of_laterals_equal_zero_padding(weights: Path) -> None:
    """Maps of FPN and gradients of its convolutions; what zeros meet has no gradient."""
    backbone = SlimmableBackbone(str(weights)).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    settings = {"in_channels": [32, 64, 128, 256], "out_channels": 16, "num_outs": 5}
    ours = FPN(**settings, conv_cfg={"type": "FirstChannelsConv2d"}).double()
    theirs = FPN(**settings).double()
    theirs.load_state_dict(ours.state_dict())
    for width in WIDTHS:
        narrow = [m.detach() for m in backbone(images, width)]
        assert [m.shape[1] for m in narrow] == [round(width * channels) for channels in settings["in_channels"]]
        padded = [
            F.pad(m, (0, 0, 0, 0, 0, full - m.shape[1]))
            for m, full in zip(narrow, settings["in_channels"], strict=True)
        ]
        for neck, maps in ((ours, narrow), (theirs, padded)):
            neck.zero_grad()
            neck.levels = neck(maps)
            sum((level**2).sum() for level in neck.levels).backward()
        for own, other in zip(ours.levels, theirs.levels, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
        for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-9, msg=name)
        assert not ours.lateral_convs[3].conv.weight.grad[:, round(width * 256) :].any()


def test_every_parameter_is_used_by_a_width_or_belongs_to_another(weights: Path) -> None:
    backbone = SlimmableBackbone(str(weights))
    names = dict(backbone.network.named_parameters())
    for width in WIDTHS:
        used = used_slices(backbone.network, width)
        others = {id(tensor) for tensor in backbone.other_parameters(width)}
        assert others
        assert {name for name, tensor in names.items() if id(tensor) not in others} == set(used)


def test_the_rest_of_an_epoch_is_the_same_however_it_is_read(weights: Path, coco: Path, tmp_path: Path) -> None:
    """With and without workers, from its beginning and from the middle; others are flipped in another epoch."""
    runner = _runner(weights, coco, tmp_path)

    def read(epoch: int, first: int, workers: int) -> list[tuple[str, bool, torch.Tensor]]:
        config = runner.cfg.train_dataloader | {"num_workers": workers, "persistent_workers": False, "batch_size": 2}
        loader = runner.build_dataloader(config, seed=0)
        loader.batch_sampler.begin(epoch, first)
        return [
            (sample.img_path, sample.flip, image)
            for batch in loader
            for sample, image in zip(batch["data_samples"], batch["inputs"], strict=True)
        ]

    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    whole = read(3, 0, 0)
    assert np.random.get_state()[1].tolist() == before
    for workers in (0, 2):
        for (*ours, pixels), (*theirs, other) in zip(read(3, 1, workers), whole[2:], strict=True):
            assert ours == theirs
            assert torch.equal(pixels, other)
    flips = [{path: flip for path, flip, _ in read(epoch, 0, 0)} for epoch in (3, 4)]
    assert sorted(flips[0]) == sorted(flips[1])
    assert flips[0] != flips[1]


def test_joint_step_sums_the_gradients_of_the_widths(weights: Path, coco: Path, tmp_path: Path) -> None:
    runner = _runner(weights, coco, tmp_path)
    model = runner.model.train()
    batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader, seed=0)))

    class Recorder(OptimWrapper):
        def step(self, **kwargs):
            self.seen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def losses(width: float) -> torch.Tensor:
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        return model.parse_losses(model(**data, mode="loss", width=width))[0]

    wrapper = Recorder(torch.optim.SGD(model.parameters(), lr=0.1))
    torch.manual_seed(3)
    log = model.train_step(copy.deepcopy(batch), wrapper)

    torch.manual_seed(3)
    total = [losses(width) for width in model.widths]
    model.zero_grad()
    sum(total).backward()
    assert set(wrapper.seen) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(wrapper.seen[name], parameter.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log["loss"], sum(total).detach())
    assert set(log) == {"loss", "loss_1.0", "loss_0.5"}


def test_perfect_predictions_score_100_and_none_0(
    weights: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = _runner(weights, coco, tmp_path)
    truth = json.loads((coco / "annotations/instances_val2017.json").read_text())["annotations"]

    def predict_step(data: dict, width: float) -> list:
        samples = model.data_preprocessor(data, False)["data_samples"]
        for sample in samples:
            mine = [a for a in truth if a["image_id"] == sample.img_id and width == 1.0]
            masks = np.zeros((len(mine), *sample.ori_shape), dtype=bool)
            for mask, annotation in zip(masks, mine, strict=True):
                canvas = Image.new("1", sample.ori_shape[::-1])
                ImageDraw.Draw(canvas).polygon(annotation["segmentation"][0], fill=1)
                mask[:] = np.asarray(canvas)
            boxes = torch.tensor([a["bbox"] for a in mine]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            sample.pred_instances = type(sample.gt_instances)(
                bboxes=boxes,
                scores=torch.ones(len(mine)),
                labels=torch.tensor([(7, 90).index(a["category_id"]) for a in mine], dtype=torch.long),
                masks=torch.from_numpy(masks),
            )
        return samples

    model = runner.model
    monkeypatch.setattr(model, "predict_step", predict_step)
    widths = transfer.evaluate(runner, annotations=coco / "annotations/instances_val2017.json")
    assert widths["1.0"]["box_ap"] == widths["1.0"]["mask_ap50"] == 100.0
    assert widths["1.0"]["mask_ap"] > 70
    # 22 x 26 and 24 x 30 pixels: all are small, and of the other sizes nothing can be said, at no width.
    assert widths["1.0"]["box_ap_small"] == 100.0
    for width, figures in widths.items():
        unknown = {name for name, figure in figures.items() if figure is None}
        assert unknown == {f"{kind}_ap_{size}" for kind in ("box", "mask") for size in ("medium", "large")}, width
    assert set(widths["0.5"].values()) == {0.0, None}


def test_a_signal_stops_the_evaluation(weights: Path, coco: Path, tmp_path: Path) -> None:
    runner = _runner(weights, coco, tmp_path)
    runner.train_loop.request.signal = "SIGUSR1"
    with pytest.raises(Preempted, match=r"transfer: asked to stop \(SIGUSR1\) and stopped while evaluating"):
        transfer.evaluate(runner, annotations=transfer.annotation_file(coco, "val"))


def test_prediction_depends_on_the_width(weights: Path, coco: Path, tmp_path: Path) -> None:
    runner = _runner(weights, coco, tmp_path)
    model = runner.model.eval()
    batch = next(iter(runner.build_dataloader(runner.cfg.eval_dataloader, seed=0)))
    data = model.data_preprocessor(batch, False)
    levels = {width: model.extract_feat((data["inputs"], width)) for width in WIDTHS}
    assert len(levels[1.0]) == 5
    assert not torch.allclose(levels[1.0][0], levels[0.5][0])


def test_the_model_is_mmdets_own_but_for_the_backbone() -> None:
    config = build_config(
        weights=Path("w"),
        stage_channels=(256, 512, 1024, 2048),
        coco=Path("coco"),
        classes=[str(index) for index in range(80)],
        checkpoints=Path("work"),
        **{name: value for name, value in RECIPE.items() if name not in SIZES},
    )
    base = base_model()
    ours = ConfigDict(copy.deepcopy(config.model.to_dict()))
    for section in ("type", "backbone"):
        ours.pop(section), base.pop(section)
    assert ours["neck"].pop("conv_cfg") == {"type": "FirstChannelsConv2d"}
    assert ours.to_dict() == base


def _stage(weights: Path, coco: Path, folder: Path) -> dict:
    """The stage's metrics; its checkpoints lie in a folder of their own in `<folder>/work`."""
    recipe = {name: value for name, value in RECIPE.items() if name != "seed"}
    run = {"run": "x", "seed": 0, "out": folder / "metrics.json", "checkpoints": folder / "work"}
    stage.transfer(Detection.model_validate(recipe), weights=weights, coco=coco, **run)
    return json.loads((folder / "metrics.json").read_text())


def _checkpoints(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "work").glob("*/*/step_*.pt")}


def test_the_same_coco_in_another_place_is_not_trained_on_again(weights: Path, coco: Path, tmp_path: Path) -> None:
    metrics = _stage(weights, coco, tmp_path)
    assert set(metrics["widths"]) == {"1.0", "0.5"}
    names = [f"{kind}_ap{item}" for kind in ("box", "mask") for item in ("", "50", "75", "_small", "_medium", "_large")]
    assert all(list(values) == names for values in metrics["widths"].values())
    assert sorted(metrics["data_sha256"]) == ["train_annotations", "train_images", "val_annotations", "val_images"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["0.5.jpg", "1.0.jpg"]
    again = ["evaluate", "--weights", str(tmp_path / "detector.safetensors"), "--coco", str(coco), "--workers", "0"]
    assert main([*again, "--out", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["widths"] == metrics["widths"]
    before = _checkpoints(tmp_path)
    assert len(before) == 1
    _is_kept(tmp_path, next(iter(before)))
    shutil.copytree(coco, tmp_path / "copy")
    (tmp_path / "link").symlink_to(coco)
    for place in ("copy", "link"):
        again = _stage(weights, tmp_path / place, tmp_path)
        assert again["widths"] == metrics["widths"]
        assert again["data_sha256"] == metrics["data_sha256"]
    assert _checkpoints(tmp_path) == before


def _is_kept(folder: Path, checkpoint: Path) -> None:
    """Beside the metrics lies the detector of the last step, which needs neither weights nor COCO."""
    kept = folder / "kept"
    kept.mkdir()
    for name in ("detector.safetensors", "config.json"):
        shutil.copy(folder / name, kept)
    model = load_detector(kept)
    assert model.widths == WIDTHS
    trained = load_checkpoint(checkpoint)["method"]
    assert model.state_dict().keys() == trained.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
    content = json.loads((kept / "config.json").read_text())
    content["model"]["backbone"]["shape"]["base_width"] = 16
    (kept / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="do not fit each other"):
        load_detector(kept)


def test_other_inputs_are_trained_on_from_the_beginning(weights: Path, coco: Path, tmp_path: Path) -> None:
    first = _stage(weights, coco, tmp_path)
    for number, change in enumerate(("train_annotations", "val_annotations", "train_images", "weights"), 1):
        other = tmp_path / change
        shutil.copytree(coco, other)
        given = weights
        if change == "weights":
            tensors, meta = read_weights(weights)
            given = tmp_path / "other.safetensors"
            save_weights(given, {name: -tensor for name, tensor in tensors.items()}, meta)
        elif change == "train_images":
            Image.new("RGB", (72, 64)).save(other / "train2017/000000000000.jpg")
        else:
            path = other / f"annotations/instances_{change.split('_')[0]}2017.json"
            content = json.loads(path.read_text())
            path.write_text(json.dumps(content | {"annotations": content["annotations"][:-1]}))
        before = _checkpoints(tmp_path)
        metrics = _stage(given, other, tmp_path)
        after = _checkpoints(tmp_path)
        assert (len(before), len(after)) == (number, number + 1)
        assert before.items() <= after.items()
        changed = {name for name, digest in metrics["data_sha256"].items() if digest != first["data_sha256"][name]}
        assert changed == {change} - {"weights"}


def test_what_the_check_passes_over_trains_and_evaluates(weights: Path, coco: Path, tmp_path: Path) -> None:
    """The cases of test_check.py that are let through, with the packages that pass over them."""
    odd = tmp_path / "coco"
    shutil.copytree(coco, odd)
    odd_polygon = [8.0, 8.0, 30.0, 8.0, 8.0, 34.0, 1.0]
    runs = {"size": [64, 72], "counts": [10, 5, 64 * 72 - 15]}
    changes = {
        "train": [
            {"segmentation": [[8.0, 8.0, 30.0, 8.0]]},
            {"segmentation": [odd_polygon]},
            {"segmentation": {"size": [64, 72]}},
            {"segmentation": [], "bbox": [8, 8, 0, 0]},
            {"segmentation": [], "category_id": 5},
            {"segmentation": [], "ignore": 1},
            {"segmentation": runs, "iscrowd": 1},
            {"segmentation": [], "image_id": 999},
        ],
        "val": [
            {"segmentation": [odd_polygon]},
            {"bbox": [8, 8, 0, 0], "area": 0},
            {"segmentation": [], "category_id": 5},
            {"segmentation": {"size": [64, 72], "counts": ":5a_4"}, "iscrowd": 1},
            {"segmentation": [], "image_id": 999},
        ],
    }
    for split, of_split in changes.items():
        path = transfer.annotation_file(odd, split)
        content = json.loads(path.read_text())
        for annotation, change in zip(content["annotations"], of_split, strict=False):
            annotation.update(change)
        if split == "train":
            for annotation in content["annotations"]:
                if not annotation["iscrowd"]:
                    del annotation["iscrowd"]
        content["images"].append(content["images"][0])
        path.write_text(json.dumps(content))
    assert set(_stage(weights, odd, tmp_path)["widths"]) == {"1.0", "0.5"}


def test_both_splits_are_checked_before_anything_is_trained(weights: Path, coco: Path, tmp_path: Path) -> None:
    broken = tmp_path / "coco"
    shutil.copytree(coco, broken)
    (broken / "val2017/000000000002.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"000000000002\.jpg: not a readable image \(1 of 4 photos\)"):
        _stage(weights, broken, tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_backbone_of_another_depth_is_refused(weights: Path, coco: Path, tmp_path: Path) -> None:
    cifar = build_backbone(20, 16, WIDTHS)
    path = tmp_path / "cifar.safetensors"
    save_weights(path, {f"backbone.{name}": tensor for name, tensor in cifar.state_dict().items()}, cifar.shape)
    with pytest.raises(UserError, match=r"cifar.safetensors: a resnet20, a network for 32 px images without the four"):
        _stage(path, coco, tmp_path)
    tensors, meta = read_weights(weights)
    save_weights(path, tensors, meta | {"depth": 26})
    with pytest.raises(UserError, match=r"cifar.safetensors: does not fit resnet26w8: "):
        _stage(path, coco, tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_batch_must_be_divisible_by_the_processes() -> None:
    with pytest.raises(UserError, match="batch 4 is not divisible by 3"):
        build_config(
            weights=Path("w"),
            stage_channels=(1, 2, 3, 4),
            coco=Path("c"),
            classes=["a"],
            checkpoints=Path("k"),
            processes=3,
            **RECIPE,
        )


@pytest.mark.parametrize("name", ["annotations/instances_val2017.json", "train2017", "val2017/000000000002.jpg"])
def test_missing_parts_of_coco_are_named(coco: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "coco"
    shutil.copytree(coco, broken)
    (shutil.rmtree if (broken / name).is_dir() else Path.unlink)(broken / name)
    with pytest.raises(UserError, match=name.replace("2017/0", "2017: .* 0")):
        transfer.check_coco(broken)


def test_annotations_without_instances_are_refused(coco: Path, tmp_path: Path) -> None:
    broken = tmp_path / "coco"
    shutil.copytree(coco, broken)
    path = broken / "annotations/instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match="no annotated instance"):
        transfer.check_coco(broken)
    with pytest.raises(UserError, match="no such folder"):
        transfer.check_coco(tmp_path / "nowhere")
