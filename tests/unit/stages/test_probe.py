"""The stage `probe`: what it keeps, how a grid's rate is chosen, and that it goes on exactly."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from slimclr.cli import main
from slimclr.config import Probe
from slimclr.engine.loop import Trainer
from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import save_weights
from slimclr.stages.probe import probe

CLASSES = ("n01440764", "n02102040", "n02979186", "n03000684")
RECIPE = {
    "epochs": 2,
    "batch": 32,
    "optimizer": {"lr": 0.1, "weight_decay": 0.0},
    "image_size": 32,
    "resize": 37,
    "workers": 0,
    "log_every": 1,
}
GRID = RECIPE | {"grid": {"lr": [1e-6, 1.0]}, "held_out": 0.25}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A random backbone, and photos of noise around a colour for each class."""
    root, draw = tmp_path_factory.mktemp("probe"), np.random.default_rng(0)
    colours = draw.integers(60, 200, (len(CLASSES), 3))
    for split, each in (("train", 24), ("val", 9)):
        for name, colour in zip(CLASSES, colours, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = colour + draw.integers(-30, 30, (40, 40, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    torch.manual_seed(0)
    network = SlimmableResNet(14, 8, (1.0, 0.5))
    tensors = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    save_weights(root / "weights.safetensors", tensors, {"run": "r"} | network.shape)
    return root


def probed(place, out, recipe):
    about = {"weights": place / "weights.safetensors", "train": place / "train", "val": place / "val"}
    probe(
        Probe.model_validate(recipe),
        run="r",
        seed=0,
        out=out / "metrics.json",
        checkpoints=out / "checkpoints",
        gpus=0,
        **about,
    )
    return json.loads((out / "metrics.json").read_text()), load_file(out / "classifier.safetensors")


def test_the_published_probe_is_trained_on_all_images_and_keeps_its_classifiers(place, tmp_path):
    metrics, kept = probed(place, tmp_path, RECIPE)
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "1.0.weight": (4, 256),
        "1.0.bias": (4,),
        "0.5.weight": (4, 128),
        "0.5.bias": (4,),
    }
    assert not {"grid", "layers"} & metrics.keys()
    # `slimclr evaluate` gives the same, without training images.
    command = ["evaluate", "--weights", place / "weights.safetensors", "--data", place / "val", "--workers", 0]
    command += ["--classifier", tmp_path / "classifier.safetensors", "--out", tmp_path / "evaluated.json"]
    assert main([str(word) for word in command]) == 0
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())["widths"]
    assert evaluated.keys() == metrics["widths"].keys()
    for width, values in metrics["widths"].items():
        assert {name: evaluated[width][name] for name in values} == values


def test_held_out_images_choose_the_rate(place, tmp_path):
    metrics, kept = probed(place, tmp_path, GRID | {"layer": "both"})
    tried = {(one["layer"], one["lr"]): one["held_out"] for one in metrics["grid"]}
    assert tried.keys() == {(layer, lr) for layer in ("switchable", "slimmable") for lr in (0.1, 1e-6, 1.0)}
    own = metrics["layers"]["switchable"]
    for width, accuracies in own["widths"].items():
        found = metrics["widths"][width]
        assert {name: found[name] for name in accuracies} == accuracies
        assert found["top1_low"] < found["top1"] < found["top1_high"] or found["top1"] == 100
    for width, choice in own["chosen"].items():
        assert choice["lr"] != 1e-6, "so small a rate leaves the classifiers at chance"
        best = max(held[width]["top1"] for (layer, _), held in tried.items() if layer == "switchable")
        assert tried["switchable", choice["lr"]][width]["top1"] == best
    shared = metrics["layers"]["slimmable"]
    assert len({choice["lr"] for choice in shared["chosen"].values()}) == 1
    assert shared["published"].keys() == own["published"].keys() == {"1.0", "0.5"}
    assert kept["0.5.weight"].shape == (4, 128)


def test_a_grid_goes_on_exactly_where_it_stopped(place, tmp_path, monkeypatch):
    whole, wanted = probed(place, tmp_path / "whole", GRID)
    train_step, seen = Trainer.train_step, []

    def stopped(self, *arguments):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(self.step)
        return train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        probed(place, tmp_path / "parts", GRID)
    steps = []
    monkeypatch.setattr(Trainer, "train_step", lambda self, *rest: steps.append(self.step) or train_step(self, *rest))
    metrics, kept = probed(place, tmp_path / "parts", GRID)
    assert steps == [2, 3], "two steps an epoch: the first epoch is not trained again"
    assert {name: metrics[name] for name in ("widths", "grid", "layers")} == {
        name: whole[name] for name in ("widths", "grid", "layers")
    }
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_validation_on_the_way_changes_nothing_and_ends_with_the_result(place, tmp_path):
    for recipe in (RECIPE, GRID | {"grid": {"lr": [1e-6]}}):
        name = "grid" if "grid" in recipe else "one"
        _, plain = probed(place, tmp_path / name, recipe)
        metrics, kept = probed(place, tmp_path / f"{name}_watched", recipe | {"validation": {}})
        assert all(torch.equal(kept[key], plain[key]) for key in plain)
        assert [one["epoch"] for one in metrics["validation"]] == [1, 2]
        own = metrics["layers"]["switchable"]["published"] if name == "grid" else metrics["widths"]
        last = metrics["validation"][-1]["widths"]
        assert last == {width: {name: own[width][name] for name in ("top1", "top5")} for width in own}


def test_features_of_the_folded_backbone_give_the_same_classifiers(place, tmp_path):
    _, kept = probed(place, tmp_path / "module", RECIPE)
    _, folded = probed(place, tmp_path / "folded", RECIPE | {"frozen": {}})
    for name, tensor in kept.items():
        torch.testing.assert_close(folded[name], tensor, rtol=1e-3, atol=1e-5)


def test_too_few_images_left(place, tmp_path):
    with pytest.raises(UserError, match=r"probe.held_out: 0.75 of the training images are 72 and leave 24, less than"):
        probed(place, tmp_path, GRID | {"held_out": 0.75})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"grid": {"lr": [1.0]}}, "grid needs held_out"),
        ({"grid": {}, "held_out": 0.1}, "lr and weight_decay are empty"),
        ({"layer": "both", "optimizer": {"lr": 0.1, "grad_clip": 1.0}}, "would clip all classifiers together"),
        ({"epochs": 0, "held_out": 0.1}, "grid, held_out, layer and validation need epochs"),
    ],
)
def test_what_does_not_go_together(change, told):
    with pytest.raises(ValueError, match=told):
        Probe.model_validate(RECIPE | change)
