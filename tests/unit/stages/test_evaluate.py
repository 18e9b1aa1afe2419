"""`slimclr evaluate`: any classifier on any data, at trained widths and others."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from slimclr.cli import main
from slimclr.config import Pretrain, Probe
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.stores import open_images
from slimclr.files import sha256
from slimclr.nn.weights import load_backbone, read_weights, save_weights
from slimclr.probe import LinearProbe
from slimclr.probe import evaluate as accuracies
from slimclr.probe.classifier import Trained, save_classifier
from slimclr.stages.pretrain import pretrain
from slimclr.stages.probe import probe
from slimclr.statistics import wilson_interval
from tests.helpers.reference_checkpoints import made, saved
from tests.helpers.small_recipe import RECIPE

CLASSES = ("n01440764", "n02102040", "n02979186", "n03000684")
SUPERVISED = RECIPE | {
    "backbone": {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]},
    "method": {"name": "supervised"},
    "views": "normal",
    "epochs": 6,
    "slow_start_epoch": 0,
    "bn_batch": 32,
    "distillation": None,
}


def photos(folder, *, each, seed, classes=CLASSES):
    """Noise with a colour for each class, which is not quite the same in every photo."""
    draw = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(96, 160, (len(CLASSES), 3))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = colours[CLASSES.index(name)] + draw.integers(-30, 30, 3) + draw.integers(-40, 40, (40, 40, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A supervised run with its training and validation images."""
    root = tmp_path_factory.mktemp("supervised")
    train = photos(root / "train", each=32, seed=1)
    photos(root / "val", each=13, seed=2)
    recipe = Pretrain.model_validate(SUPERVISED)
    about = {"seed": 0, "gpus": 0, "paper": False, "checkpoints": root / "checkpoints"}
    pretrain(recipe, run="own", data=train, out=root / "own", **about)
    return root


def evaluated(out, *arguments):
    assert main(["evaluate", *map(str, arguments), "--workers", "0", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def refused(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments), "--workers", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_an_own_classifier_gives_what_its_probe_gave(run, tmp_path, capsys):
    weights, val = run / "own/weights.safetensors", run / "val"
    settings = Probe(epochs=0, batch=64, image_size=32, resize=37, workers=0)
    out = tmp_path / "probe/metrics.json"
    about = {"weights": weights, "train": run / "train", "val": val, "out": out, "checkpoints": tmp_path / "c"}
    probe(settings, run="own", seed=0, gpus=0, **about)
    wanted = json.loads(out.read_text())["widths"]
    document = evaluated(tmp_path / "e.json", "--weights", weights, "--data", val)
    assert document["pictures"] == {"resize": 37, "image_size": 32, "views": "normal"}
    assert (document["run"], document["images"], document["classes"]) == ("own", 52, 4)
    assert wanted["1.0"]["top1"] > 50
    for width, values in wanted.items():
        found = document["widths"][width]
        assert {metric: found[metric] for metric in ("top1", "top5")} == {m: values[m] for m in ("top1", "top5")}
        right = round(values["top1"] * 52 / 100)
        interval = (found["top1_low"], found["top1_high"])
        assert interval == pytest.approx(wilson_interval(right, 52), abs=1e-3)
        assert found["images_per_s"] > 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("0.5 "))
    assert f"{wanted['0.5']['top1']:.2f}" in line


def test_a_kept_classifier_needs_neither_training_data_nor_checkpoints(run, tmp_path):
    weights, val = run / "own/weights.safetensors", run / "val"
    torch.manual_seed(1)
    method = LinearProbe(load_backbone(weights)[0], 4)
    loader = validation_loader(open_images(val), resize=37, image_size=32, batch=16, workers=0)
    wanted = accuracies(method, loader, torch.device("cpu"))
    trained = Trained(CLASSES, sha256(weights), "resnet14w8", 37, 32, "normal", 16)
    kept = tmp_path / "classifier.safetensors"
    save_classifier(kept, method.classifier, widths=method.widths, trained=trained)
    document = evaluated(tmp_path / "e.json", "--weights", weights, "--classifier", kept, "--data", val)
    found = {float(width): values for width, values in document["widths"].items()}
    assert {w: {m: v[m] for m in ("top1", "top5")} for w, v in found.items()} == {
        w: {m: round(v, 4) for m, v in values.items()} for w, values in wanted.items()
    }


def test_classes_are_those_of_the_same_name(run, tmp_path, capsys):
    """A data set with some of the classes is asked about all of them; by_class tells each."""
    weights = run / "own/weights.safetensors"
    whole = evaluated(tmp_path / "a.json", "--weights", weights, "--data", run / "val", "--by-class")["by_class"]
    assert list(whole) == list(CLASSES)
    some = photos(tmp_path / "some", each=13, seed=3, classes=CLASSES[1::2])
    part = evaluated(tmp_path / "b.json", "--weights", weights, "--data", some, "--by-class")
    assert "has 2 of the classifier's 4 classes" in capsys.readouterr().out
    # Were the two classes counted from 0, hardly any answer would be right.
    assert list(part["by_class"]) == list(CLASSES[1::2])
    assert part["widths"]["1.0"]["top1"] > 40
    mean = np.mean([values["1.0"]["top1"] for values in part["by_class"].values()])
    assert mean == pytest.approx(part["widths"]["1.0"]["top1"], abs=1e-3)
    (some / "n09999999").mkdir()
    Image.new("RGB", (40, 40)).save(some / "n09999999/0.png")
    error = refused(capsys, "--weights", weights, "--data", some)
    assert "1 of its 3 classes (n09999999) are none of the 4 of the classifier" in error


def test_a_width_that_was_never_trained_is_recalibrated(run, tmp_path, capsys):
    weights, before = run / "own/weights.safetensors", sha256(run / "own/weights.safetensors")
    arguments = ["--weights", weights, "--data", run / "val", "--widths", 1.0, 0.75, 0.5]
    assert "width 0.75 was never trained (trained: 1.0, 0.5)" in refused(capsys, *arguments)
    document = evaluated(tmp_path / "a.json", *arguments, "--recalibrate", run / "train", "--recalibrate-images", 128)
    usual = evaluated(tmp_path / "b.json", "--weights", weights, "--data", run / "val")
    assert document["recalibrated_on"] == 128
    assert [document["widths"][width]["trained"] for width in ("1.0", "0.75", "0.5")] == [True, False, True]
    for width in ("1.0", "0.5"):
        assert document["widths"][width]["top1"] == usual["widths"][width]["top1"]
    assert document["widths"]["0.75"]["top1_low"] > 25
    table = capsys.readouterr().out
    assert "0.75 *" in table
    assert "never trained: batch norms recalibrated on 128" in table
    assert sha256(weights) == before


def test_an_imported_probe_is_evaluated(tmp_path, capsys):
    _, state = made("supervised_switch", "", out=4)
    assert main(["import", str(saved(tmp_path, state)), "--out", str(tmp_path / "w.safetensors")]) == 0
    val = photos(tmp_path / "val", each=2, seed=0)
    arguments = ["--weights", tmp_path / "w.safetensors", "--image-size", 32, "--resize", 36]
    document = evaluated(tmp_path / "e.json", *arguments, "--data", val)
    assert list(document["widths"]) == ["1.0", "0.75", "0.5", "0.25"]
    fewer = photos(tmp_path / "fewer", each=2, seed=0, classes=CLASSES[:3])
    error = refused(capsys, *arguments, "--data", fewer)
    assert "has 3 classes, but the classifier in" in error


def test_wrong_files_are_refused_in_one_line(run, tmp_path, capsys):
    weights, val = run / "own/weights.safetensors", run / "val"
    tensors, header = read_weights(weights)
    other = tmp_path / "other.safetensors"
    backbone_only = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    save_weights(other, backbone_only, header)
    assert "holds no classifier" in refused(capsys, "--weights", other, "--data", val)
    kept = tmp_path / "classifier.safetensors"
    method = LinearProbe(load_backbone(weights)[0], 4)
    trained = Trained(CLASSES, sha256(weights), "resnet14w8", 37, 32, "normal", 16)
    save_classifier(kept, method.classifier, widths=method.widths, trained=trained)
    error = refused(capsys, "--weights", other, "--classifier", kept, "--data", val)
    assert "a classifier of another backbone" in error
    error = refused(capsys, "--weights", weights, "--classifier", weights, "--data", val)
    assert "weights of a network, not a classifier" in error
    assert "slimclr header" in refused(capsys, "--weights", kept, "--data", val)
    broken = load_file(weights)
    broken["backbone.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_weights(other, broken, header)
    assert "backbone.conv1.weight is not finite" in refused(capsys, "--weights", other, "--data", val)


@pytest.mark.parametrize("widths", [[], [""], ["0"], ["1.5"], ["nan"], ["wide"]])
def test_no_width_at_all_is_refused(run, capsys, widths):
    with pytest.raises(SystemExit):
        main(["evaluate", "--weights", "w", "--data", "d", "--widths", *widths])
    assert "--widths" in capsys.readouterr().err


def test_a_width_without_whole_channels_is_refused(run, capsys):
    arguments = ["--weights", run / "own/weights.safetensors", "--data", run / "val"]
    error = refused(capsys, *arguments, "--widths", "0.3", "--recalibrate", run / "train")
    assert "width 0.3 of 8 channels is 2.4, not a whole number" in error
    assert "every width was trained" in refused(capsys, *arguments, "--recalibrate", run / "train")
