"""Kept detectors: evaluated without a training, exported to mmdet, imported from mmdet 1; needs mmdet."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="mmdet is in .venvs/detection only; test_in_venv.py runs these tests there")

import mmdet
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from PIL import Image
from safetensors.torch import load_file

from slimclr.cli import main
from slimclr.detection.check import check_coco
from slimclr.detection.detector import SlimmableMaskRCNN
from slimclr.detection.evaluation import measure, validation_loader
from slimclr.detection.kept import build_detector, load_detector, save_detector
from slimclr.detection.recipe import build_config
from slimclr.detection.released import Sizes
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import save_weights
from slimclr.stages.import_detector import legacy_model
from tests.helpers.small_detection import SIZES

WIDTHS = (1.0, 0.5)
SCHEDULE = {"epochs": 1, "milestones": [1], "batch": 4, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "seed": 0}
SCHEDULE |= {"grad_clip": 5.0, "warmup_iterations": 2, "warmup_ratio": 0.1, "image_scale": (64, 64), "flip": 0.5}


def _lively(model: nn.Module) -> None:
    """Weights and statistics that make outputs differ; as initialised, all boxes score the same."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif not name.startswith("backbone.") and name.endswith("weight"):
            tensor.normal_(std=1.0 if "fc_cls" in name else 0.1)


@pytest.fixture(scope="module")
def detector(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kept detector on a ResNet-50 of 8 channels, which mmdet's ResNet can be, too."""
    folder = tmp_path_factory.mktemp("results") / "transfer/tiny"
    network = SlimmableResNet(50, 8, WIDTHS)
    weights = folder / "weights.safetensors"
    save_weights(weights, {f"backbone.{name}": t for name, t in network.state_dict().items()}, network.shape)
    places = {"weights": weights, "coco": coco, "classes": check_coco(coco), "checkpoints": folder / "work"}
    sizes = {"stage_channels": network.stage_channels, "workers": 0, **SIZES}
    config = build_config(**places, **sizes, **SCHEDULE)
    model = build_detector(config.model)
    _lively(model)
    save_detector(folder, model, config, shape=network.shape, header={"name": "transfer tiny", "inputs": {}})
    return folder


def test_a_kept_detector_is_evaluated(detector: Path, coco: Path, tmp_path: Path, capsys) -> None:
    """Neither the training photos nor the backbone's weights are needed."""
    shutil.copytree(coco, tmp_path / "coco", ignore=shutil.ignore_patterns("*train*"))
    arguments = ["evaluate", "--weights", str(detector), "--coco", str(tmp_path / "coco"), "--workers", "0"]
    out = ["--out", str(tmp_path / "metrics.json"), "--pictures", str(tmp_path / "pictures")]
    assert main([*arguments, *out]) == 0
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert (document["run"], document["images"], list(document["widths"])) == ("tiny", 4, ["1.0", "0.5"])
    for width in WIDTHS:
        with Image.open(tmp_path / f"pictures/{width}.jpg") as picture:
            # Four photos of 72 x 64 pixels, enlarged, with gaps.
            assert picture.size == (4 * 270 + 3 * 6, 240)
    assert main([*arguments, "--widths", "0.5", "--out", str(tmp_path / "one.json")]) == 0
    one = json.loads((tmp_path / "one.json").read_text())["widths"]
    assert one == {"0.5": document["widths"]["0.5"]}
    capsys.readouterr()
    for options, line in (
        (["--widths", "0.25"], "was not trained at width 0.25; its widths are 1.0, 0.5"),
        (["--by-class"], "--by-class: not for a detector (--coco); leave it out"),
    ):
        assert main([*arguments, *options]) == 2
        assert line in capsys.readouterr().err
    path = tmp_path / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "square"
    path.write_text(json.dumps(content))
    assert main(arguments) == 2
    assert "its 2 categories are not the 2 of" in capsys.readouterr().err


def _detections(file: Path) -> list[tuple]:
    found = [(d["image_id"], d["category_id"], d["score"], *d["bbox"]) for d in json.loads(file.read_text())]
    return sorted(found)


@pytest.mark.parametrize("width", WIDTHS)
def test_mmdets_own_test_script_evaluates_an_export(detector: Path, coco: Path, tmp_path: Path, width: float) -> None:
    out = tmp_path / "out"
    assert main(["export", str(detector), "--width", str(width), "--out", str(out)]) == 0
    script = Path(mmdet.__file__).parent / ".mim/tools/test.py"
    # Without slimclr, wherever it is.
    code = (
        f"import runpy, sys; sys.modules['slimclr'] = None; sys.argv = sys.argv[1:]; runpy.run_path({str(script)!r}, "
    )
    code += "run_name='__main__')"
    options = [f"data_root={coco}/", f"test_dataloader.dataset.data_root={coco}/", "test_dataloader.num_workers=0"]
    options += ["test_dataloader.persistent_workers=False", f"test_evaluator.outfile_prefix={tmp_path}/theirs"]
    options += [f"test_evaluator.ann_file={coco}/annotations/instances_val2017.json"]
    command = [sys.executable, "-c", code, str(script), str(out / "detector.py"), str(out / "detector.pth")]
    command += ["--work-dir", str(tmp_path / "work"), "--cfg-options", *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(next((tmp_path / "work").rglob("20*_*.json")).read_text())
    model = load_detector(detector)
    config = ConfigDict(json.loads((detector / "config.json").read_text()))
    annotations = coco / "annotations/instances_val2017.json"
    ours = measure(model, validation_loader(config, coco, workers=0), annotations=annotations, widths=[width])
    for name, figure in ours[str(width)].items():
        kind, item = name.split("_", 1)
        item = {"ap": "mAP", "ap50": "mAP_50", "ap75": "mAP_75"}.get(item) or item.replace("ap_", "mAP_")[:5]
        found = theirs[f"coco/{'bbox' if kind == 'box' else 'segm'}_{item}"]
        assert (None if found < 0 else round(100 * found, 1)) == figure, name
    assert len(_detections(tmp_path / "theirs.bbox.json")) == 40  # ten a photo: they did see something


def test_exports_of_detectors_that_are_refused(detector: Path, tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "out")]
    for words, line in (
        (["--width", "0.25"], "width 0.25: "),
        (["--width", "0.5", "--format", "onnx"], "is a detector, for which --format means nothing"),
    ):
        assert main(["export", str(detector), *words, *out]) == 2
        assert line in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["export", str(detector / "detector.safetensors"), "--width", "1.0", *out]) == 0
    assert main(["export", str(detector), "--width", "0.5", *out]) == 2
    assert "give --force" in capsys.readouterr().err
    assert main(["export", str(detector), "--width", "0.5", "--force", *out]) == 0
    assert json.loads((tmp_path / "out/export.json").read_text())["width"] == 0.5


def _of_2019(state: dict[str, Tensor], *, features: bool) -> dict[str, Tensor]:
    """Our tensors as an mmdet 1 has them: background first, also where nothing is predicted for it."""
    old = {}
    for name, tensor in state.items():
        new = name.removeprefix("roi_head.")
        if new.startswith("bbox_head.fc_cls"):
            tensor = torch.cat([tensor[-1:], tensor[:-1]])
        elif new.startswith("bbox_head.fc_reg"):
            tensor = torch.cat([torch.full_like(tensor[:4], 7.0), tensor])
        elif new.startswith("mask_head.conv_logits"):
            tensor = torch.cat([torch.full_like(tensor[:1], 7.0), tensor])
        if new.startswith("backbone."):
            new = new.replace("network.", "").replace(".norms.0_5.", ".bn.0.").replace(".norms.1_0.", ".bn.1.")
            for stage in range(4):
                place = f"features.{stage}." if features else f"layer{stage + 1}.0."
                new = new.replace(f"stages.{stage}.0.", place)
            for ours, theirs in (("shortcut_conv", "0"), ("shortcut_bn", "1")):
                new = new.replace(ours, f"{'shortcut' if features else 'downsample'}.{theirs}")
        if not new.endswith("num_batches_tracked"):  # of before torch 0.4.1
            old[f"module.{new}"] = tensor
    return old


@pytest.fixture(scope="module")
def legacy() -> SlimmableMaskRCNN:
    network = SlimmableResNet(14, 8, WIDTHS)
    sizes = Sizes(network.shape, network.stage_channels, 80, fpn_channels=16, fc_channels=32, mask_convs=2)
    model = build_detector(legacy_model(sizes))
    _lively(model)
    return model.eval()


@pytest.mark.parametrize("features", [False, True])
def test_a_detector_of_mmdet_1_comes_back(legacy: SlimmableMaskRCNN, tmp_path: Path, capsys, features: bool) -> None:
    file = tmp_path / "mask_rcnn_r50_fpn_1x.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": _of_2019(legacy.state_dict(), features=features)}, file)
    assert main(["import", str(file), "--detector", "--out", str(tmp_path / "transfer/released")]) == 0
    assert "widths 1.0, 0.5" in capsys.readouterr().out
    imported = load_detector(tmp_path / "transfer/released")
    images = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    for width in WIDTHS:
        results = []
        for model in (legacy, imported):
            shapes = {"ori_shape": (64, 96), "img_shape": (64, 96), "scale_factor": (1.0, 1.0)}
            sample = DetDataSample(metainfo=shapes)
            with torch.no_grad():
                (found,) = model.predict_step({"inputs": [images], "data_samples": [sample]}, width)
            results.append(found.pred_instances)
        assert len(results[0].scores) > 0
        for key in ("bboxes", "scores", "labels", "masks"):
            assert torch.equal(torch.as_tensor(results[0][key]), torch.as_tensor(results[1][key])), key
    header = load_file(tmp_path / "transfer/released/detector.safetensors")
    assert header.keys() == legacy.state_dict().keys()


def test_a_detector_that_does_not_fit_is_refused_with_the_list(legacy, tmp_path: Path, capsys) -> None:
    file, out = tmp_path / "net.pth", tmp_path / "out"
    whole = _of_2019(legacy.state_dict(), features=False)
    changed = dict(whole)
    del changed["module.rpn_head.rpn_cls.weight"]
    changed["module.mask_head.other.weight"] = torch.zeros(3)
    changed["module.bbox_head.fc_reg.weight"] = torch.zeros(4, 32)  # class-agnostic
    changed["module.neck.fpn_convs.1.conv.bias"] = torch.full((16,), float("nan"))
    for state, lines in (
        (
            changed,
            [
                "1 tensors missing (our names): rpn_head.rpn_cls.weight",
                "1 tensors unknown: mask_head.other.weight",
                "1 tensors of another shape than mmdet's Mask R-CNN has: bbox_head.fc_reg.weight (4, 32)",
                "1 tensors not finite: neck.fpn_convs.1.conv.bias",
            ],
        ),
        ({"conv1.weight": torch.zeros(8, 3, 7, 7)}, ["no tensor backbone.conv1.weight"]),
        (
            whole
            | {"module.backbone.bn1.bn.0.weight": torch.ones(8), "module.backbone.bn1.bn.1.weight": torch.ones(4)},
            ["backbone.bn1.bn.<i>.weight have 8, 4 channels"],
        ),
        (whole | {"module.bbox_head.fc_cls.bias": torch.zeros(21)}, ["bbox_head.fc_cls has 20 categories"]),
    ):
        torch.save(state, file)
        assert main(["import", str(file), "--detector", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert all(line in said for line in lines), said
        assert "Traceback" not in said
        assert not out.exists()
