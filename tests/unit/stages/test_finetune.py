"""Fine-tuning a run: results, few labels, going on exactly, bad input."""

import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch

from slimclr.cli import main
from slimclr.data.stores import open_images
from slimclr.data.stores.subset import drawn_share
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import load_backbone, read_weights, save_weights
from tests.helpers.memory_images import MemoryImages

RECIPE = {
    "epochs": 3, "batch": 16, "optimizer": {"lr": 0.05}, "head_lr": 0.5, "image_size": 32, "resize": 36, "workers": 0,
    "log_every": 1,
}  # fmt: skip


def written(images, folder):
    for key, data in zip(images.keys, images._files, strict=True):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, and the weights of a random network."""
    folder = tmp_path_factory.mktemp("place")
    written(MemoryImages(96, classes=3), folder / "train")
    written(MemoryImages(12, classes=3), folder / "val")
    torch.manual_seed(0)
    backbone = SlimmableResNet(14, 8, (1.0, 0.5, 0.25))
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    save_weights(folder / "weights.safetensors", tensors, {"stage": "pretrain", "run": "r", **backbone.shape})
    return folder


def tune(place, folder, *options, **changes):
    recipe = {key: value for key, value in (RECIPE | changes).items() if value is not None}
    return main([
        "finetune", "--name", "r", "--recipe", json.dumps(recipe), "--weights", str(place / "weights.safetensors"),
        "--train", str(place / "train"), "--val", str(place / "val"), "--out", str(folder / "out"),
        "--checkpoints", str(folder / "work"), *map(str, options),
    ])  # fmt: skip


def lines(folder):
    return [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]


def test_few_labels_at_every_width(place, tmp_path):
    assert tune(place, tmp_path, labels=0.25) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["stage"], list(metrics["widths"])) == ("finetune", ["1.0", "0.5", "0.25"])
    for figures in metrics["widths"].values():
        assert (figures["label_images"], figures["label_percent"], figures["top5"]) == (24, 25.0, 100.0)
        assert (figures["top1"] * 12 / 100) == pytest.approx(round(figures["top1"] * 12 / 100), abs=1e-3)
    images = open_images(place / "train")
    names = [images.keys[index] for index in drawn_share(images.labels, 0.25, 0)]
    assert (tmp_path / "out/images.txt").read_text().splitlines() == names
    assert len(lines(tmp_path)) == 3 * (24 // 16)
    # The same list, named, gives the same network.
    (tmp_path / "named").mkdir()
    listed = tmp_path / "out/images.txt"
    assert tune(place, tmp_path / "named", "--names", listed, names="1percent.txt") == 0
    one, other = (read_weights(folder / "out/weights.safetensors")[0] for folder in (tmp_path, tmp_path / "named"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_one_width_and_its_classifier_can_be_evaluated(place, tmp_path, capsys):
    assert tune(place, tmp_path, widths=[0.5], epochs=1) == 0
    weights = tmp_path / "out/weights.safetensors"
    backbone, header = load_backbone(weights)
    assert backbone.widths == (1.0, 0.5)
    assert header["finetuned_widths"] == [0.5]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert list(metrics["widths"]) == ["0.5"]
    assert metrics["widths"]["0.5"]["label_images"] == 96
    assert not (tmp_path / "out/images.txt").exists()
    old, _ = read_weights(place / "weights.safetensors")
    new, _ = read_weights(weights)
    assert torch.equal(new["backbone.bn1.norms.1_0.weight"], old["backbone.bn1.norms.1_0.weight"])
    assert not torch.equal(new["backbone.bn1.norms.0_5.weight"], old["backbone.bn1.norms.0_5.weight"])
    capsys.readouterr()
    assert (
        main(["evaluate", "--weights", str(weights), "--data", str(place / "val"), "--out", str(tmp_path / "e.json")])
        == 0
    )
    evaluated = json.loads((tmp_path / "e.json").read_text())["widths"]
    assert list(evaluated) == ["0.5"]
    assert evaluated["0.5"]["top1"] == metrics["widths"]["0.5"]["top1"]
    capsys.readouterr()
    photo = next((place / "val").rglob("*.*"))
    assert main(["predict", str(weights), str(photo)]) == 0
    assert {line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1:]} == {"0.5"}
    assert main(["predict", str(weights), str(photo), "--width", "1.0"]) == 2
    assert "width 1.0: the classifier in" in capsys.readouterr().err


def test_weights_of_another_stage_are_not_replaced(place, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    shutil.copy(place / "weights.safetensors", tmp_path / "out")
    before = (tmp_path / "out/weights.safetensors").read_bytes()
    assert tune(place, tmp_path, epochs=1) == 2
    assert "so finetune does not replace it" in capsys.readouterr().err
    assert (tmp_path / "out/weights.safetensors").read_bytes() == before


def test_a_stopped_one_goes_on_exactly(place, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"epochs": 6, "distillation": {}}
    assert tune(place, whole, **settings) == 0
    ended, before = threading.Event(), signal.signal(signal.SIGTERM, lambda *_: None)

    def ask():
        while not list(stopped.glob("work/*/*/step_*.pt")) and not ended.wait(0.005):
            pass
        while not ended.wait(0.005):
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    try:
        asking.start()
        assert tune(place, stopped, **settings) == 75
    finally:
        ended.set()
        asking.join()
        signal.signal(signal.SIGTERM, before)
    assert not (stopped / "out").exists()
    assert tune(place, stopped, **settings) == 0
    one, other = (read_weights(folder / "out/weights.safetensors")[0] for folder in (whole, stopped))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    losses = [[line["widths"] for line in lines(folder)] for folder in (whole, stopped)]
    assert losses[0] == losses[1]
    results = [json.loads((folder / "out/metrics.json").read_text())["widths"] for folder in (whole, stopped)]
    assert results[0] == results[1]


def test_labels_that_can_be_learned_are_learned(tmp_path):
    class Coloured(MemoryImages):
        """Each class has a colour."""

        def __init__(self, count):
            import io

            from PIL import Image

            super().__init__(count, classes=3)
            rng = np.random.default_rng(1)
            for index, label in enumerate(self.labels):
                pixels = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8)
                pixels[..., label] += 150
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG")
                self._files[index] = file.getvalue()

    written(Coloured(96), tmp_path / "train")
    written(Coloured(30), tmp_path / "val")
    torch.manual_seed(0)
    backbone = SlimmableResNet(14, 8, (1.0, 0.5))
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    save_weights(tmp_path / "weights.safetensors", tensors, {"stage": "pretrain", "run": "r", **backbone.shape})
    assert tune(tmp_path, tmp_path, epochs=6) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert all(figures["top1"] > 90 for figures in metrics["widths"].values()), metrics["widths"]


@pytest.mark.parametrize(
    ("changes", "options", "fault"),
    [
        ({"widths": [0.75]}, [], "weights.safetensors has no width 0.75, but 1.0, 0.5, 0.25; choose among them"),
        ({"batch": 1}, [], "finetune.batch: 1 on 1 GPUs is one image for batch norm; use more"),
        ({"batch": 128}, [], "batch 128 is more than the 96 training images; make it smaller"),
        ({"names": "1percent.txt"}, [], "finetune.names: 1percent.txt is below paths.raw; give the file with --names"),
        ({"names": "1percent.txt", "labels": 0.1}, [], "labels 0.1 and names '1percent.txt' both choose the images"),
        ({}, ["--names", "/nowhere/1percent.txt"], "/nowhere/1percent.txt: not a readable list"),
        ({"labels": 0.0}, [], "labels: Input should be greater than 0"),
        ({"widths": [0.5], "distillation": {}}, [], "distillation needs several widths, but widths is [0.5]"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(place, tmp_path, capfd, changes, options, fault):
    assert tune(place, tmp_path, *options, **changes) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert fault in line
    assert not (tmp_path / "out").exists()
