"""Exported folders: loaded in a process that cannot import slimclr, card, config, and what is refused."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import slimclr
from slimclr.cli import main
from slimclr.exporting.comparison import difference
from tests.helpers.small_network import CLASSES, WIDTHS, write_run

# Runs in a folder of exports, one below it for each width.
ELSEWHERE = """
import importlib, sys, torch
from safetensors.torch import load_file, save_file
sys.modules["slimclr"] = None
images, outputs = load_file("images.safetensors")["images"], {}
for width in sys.argv[2:]:
    with torch.no_grad():
        outputs[width] = LOADER(width)(images)
assert not [name for name in sys.modules if name.startswith("slimclr.")]
save_file({width: tensor.contiguous() for width, tensor in outputs.items()}, sys.argv[1])
"""
LOADERS = {
    "torchvision": "(lambda width: (sys.path.insert(0, width), importlib.import_module('resnet'))[1].load(width))",
    "timm": "(lambda width: importlib.import_module('timm').create_model(f'local-dir:{width}/timm', pretrained=True)"
    ".eval())",
    "pt2": "(lambda width: torch.export.load(f'{width}/model.pt2').module())",
    "onnx": "(lambda width: lambda images: torch.from_numpy(importlib.import_module('onnxruntime').InferenceSession("
    "f'{width}/model.onnx').run(None, {'images': images.numpy()})[0]))",
}


def outputs_elsewhere(folder, name, widths, images):
    save_file({"images": images}, folder / "images.safetensors")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = ELSEWHERE.replace("LOADER", LOADERS[name])
    done = subprocess.run(
        [sys.executable, "-c", code, f"{name}.safetensors", *map(str, widths)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / f"{name}.safetensors")


def exported(results, folder, widths, *arguments, run="slim"):
    for width in widths:
        command = ["export", run, "--results", str(results), "--width", str(width), "--out", str(folder / str(width))]
        assert main([*command, *arguments]) == 0


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    results = tmp_path_factory.mktemp("slim") / "results"
    backbone, probe = write_run(results)
    return results, backbone, probe


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    results = tmp_path_factory.mktemp("resnet50") / "results"
    return results, write_run(results, depth=50, base_width=64, size=64)[0]


def test_a_classifier_is_the_same_where_slimclr_cannot_be_imported(slim, tmp_path):
    results, backbone, probe = slim
    exported(results, tmp_path, WIDTHS, "--head", "probe", "--format", "timm")
    images = torch.randn(3, 3, 64, 64)
    for name in ("torchvision", "timm"):
        outputs = outputs_elsewhere(tmp_path, name, WIDTHS, images)
        with torch.no_grad():
            for width in WIDTHS:
                assert difference(outputs[str(width)], probe(backbone(images, width), width)) < 1e-5


def test_a_resnet50_is_the_same_at_every_width(resnet50, tmp_path):
    results, backbone = resnet50
    exported(results, tmp_path, WIDTHS, "--format", "timm", "mmdet")
    images = torch.randn(2, 3, 64, 64)
    for name in ("torchvision", "timm"):
        outputs = outputs_elsewhere(tmp_path, name, WIDTHS, images)
        with torch.no_grad():
            for width in WIDTHS:
                assert difference(outputs[str(width)], backbone(images, width)) < 1e-5
    sizes = [(tmp_path / str(width) / "model.safetensors").stat().st_size for width in WIDTHS]
    assert sizes[-1] < 0.07 * sizes[0]
    text = (tmp_path / "0.25/mmdet/mask_rcnn.py").read_text()
    assert "base_channels=16" in text
    assert "in_channels=[64, 128, 256, 512]" in text
    state = torch.load(tmp_path / "0.25/mmdet/backbone.pth", weights_only=True)["state_dict"]
    assert state["layer4.0.downsample.0.weight"].shape == (512, 256, 1, 1)


@pytest.mark.slow
def test_graphs_of_a_resnet50_are_the_same(resnet50, tmp_path):
    results, backbone = resnet50
    exported(results, tmp_path, [0.25], "--fold", "--format", "onnx", "pt2")
    images = torch.randn(5, 3, 64, 64)  # another batch than the graphs were made with
    for name in ("onnx", "pt2"):
        (outputs,) = outputs_elsewhere(tmp_path, name, [0.25], images).values()
        with torch.no_grad():
            assert difference(outputs, backbone(images, 0.25)) < 1e-5


def test_the_file_beside_the_weights_imports_torch_and_python_alone(slim, tmp_path):
    exported(slim[0], tmp_path, [0.25])
    tree = ast.parse((tmp_path / "0.25/resnet.py").read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"torch"}


def test_the_folder_describes_itself(slim, tmp_path, capsys):
    exported(slim[0], tmp_path, [0.5], "--head", "probe", "--licence", "cc-by-4.0")
    said = capsys.readouterr().out
    config = json.loads((tmp_path / "0.5/config.json").read_text())
    assert config["classes"] == list(CLASSES)
    assert (config["preprocessing"]["resize"], config["preprocessing"]["crop"]) == (72, 64)
    assert f"{config['params']:,} parameters, {config['macs']:,} multiply-adds" in said
    assert "model.safetensors 0.5 MB" in said
    card = (tmp_path / "0.5/README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\npipeline_tag: image-classification\n")
    assert "| 0.5 (this one) | 60.00 | 55.13 to 64.68 | 99.00 |" in card  # 240 of 400 images
    assert "it is a \\<test\\>" in card
    block = card.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", f"import torch\nimages = torch.zeros(2, 3, 64, 64)\n{block}\nprint(outputs.shape)"],
        cwd=tmp_path / "0.5",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "torch.Size([2, 3])\n", done.stderr


@pytest.mark.slow
def test_int8_is_compared_with_fp32_on_the_same_images(slim, tmp_path, extracted, capsys):
    data = ["--data", str(extracted), "--val", str(extracted), "--calibrate", "16"]
    exported(slim[0], tmp_path, [0.5], "--head", "probe", "--format", "int8", *data)
    assert "same " in capsys.readouterr().out
    config = json.loads((tmp_path / "0.5/config.json").read_text())
    judged = config["formats"]["int8"]["accuracy"]
    assert judged["same"] >= 80
    assert f"its first class is that of fp32 for {judged['same']:.2f} %" in (tmp_path / "0.5/README.md").read_text()
    full = (tmp_path / "0.5/model.safetensors").stat().st_size
    assert (tmp_path / "0.5/model_int8.onnx").stat().st_size < 0.5 * full


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_exported_is_one_line(slim, tmp_path, capsys, monkeypatch):
    results, out = slim[0], tmp_path / "out"
    common = ["slim", "--results", results, "--out", out, "--width"]
    assert "width 0.3: these weights were trained at 1.0, 0.75, 0.5, 0.25;" in refused(capsys, *common, 0.3)
    assert "holds no classifier, which --head own asks for" in refused(capsys, *common, 0.5, "--head", "own")
    assert "no such weights file" in refused(capsys, "other", "--results", results, "--out", out, "--width", 0.5)
    assert "--format int8: needs photos" in refused(capsys, *common, 0.5, "--format", "int8")
    monkeypatch.setitem(sys.modules, "timm", None)
    line = refused(capsys, *common, 0.5, "--format", "timm")
    assert "--format timm: needs the package timm; install it: " in line
    assert f"--python {sys.executable} timm" in line or f"{sys.executable} -m pip install timm" in line
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays(slim, tmp_path, capsys):
    common = ["slim", "--results", slim[0], "--out", tmp_path / "out", "--width"]
    assert main(["export", *map(str, common), "0.5"]) == 0
    assert "give --force to replace it" in refused(capsys, *common, 0.25)
    assert main(["export", *map(str, common), "0.25", "--force"]) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["width"] == 0.25
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    line = refused(capsys, "slim", "--results", slim[0], "--out", tmp_path / "mine", "--width", 0.5, "--force")
    assert "there already, and not an earlier export" in line


def test_no_metrics_no_card(tmp_path, capsys):
    write_run(tmp_path / "results", metrics=False, probe=False)
    weights = tmp_path / "results/pretrain/slim/weights.safetensors"
    common = [weights, "--out", tmp_path / "out", "--width", 0.5]
    assert "no such metrics, which the model card needs" in refused(capsys, *common)
    line = refused(capsys, *common, "--head", "probe")
    assert "probe/slim/classifier.safetensors: no such classifier, which --head probe asks for" in line
    assert main(["export", *map(str, common), "--no-card"]) == 0
    assert not (tmp_path / "out/README.md").exists()


def test_a_width_that_was_never_trained_is_measured(slim, tmp_path, extracted):
    exported(slim[0], tmp_path, [0.375], "--head", "probe", "--recalibrate", str(extracted))
    config = json.loads((tmp_path / "0.375/config.json").read_text())
    assert config["network"]["channels"] == 6
    assert config["recalibrated_on"] > 0
    assert "This width was never trained" in (tmp_path / "0.375/README.md").read_text()


def test_a_supervised_networks_own_classifier_is_loaded(tmp_path):
    backbone, head = write_run(tmp_path / "results", own=True)
    images = torch.randn(2, 3, 64, 64)
    own = slimclr.load(tmp_path / "results/pretrain/slim", width=0.25, head="own")
    with torch.no_grad():
        torch.testing.assert_close(own(images), head(backbone(images, 0.25), 0.25))


def test_load_gives_the_slimmable_network_or_one_width(slim, tmp_path):
    results, backbone, probe = slim
    images = torch.randn(2, 3, 64, 64)
    whole = slimclr.load("slim", results=results)
    assert isinstance(whole, slimclr.SlimmableResNet)
    exported(results, tmp_path, [0.5], "--head", "probe")
    with torch.no_grad():
        torch.testing.assert_close(whole(images, 0.5), backbone(images, 0.5))
        logits = probe(backbone(images, 0.5), 0.5)
        for source in ("slim", tmp_path / "0.5"):
            torch.testing.assert_close(slimclr.load(source, width=0.5, head="probe", results=results)(images), logits)
    with pytest.raises(slimclr.UserError, match=r"width 0\.5 was exported, not 1\.0; leave --width out"):
        slimclr.load(tmp_path / "0.5", width=1.0)
    with pytest.raises(ValueError, match="belongs to one width"):
        slimclr.load("slim", head="probe", results=results)


def test_importing_slimclr_takes_no_torch():
    code = "import sys, slimclr; slimclr.__version__; print([name for name in sys.modules if 'torch' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout == "[]\n", done.stderr
