"""Runs that begin with the weights or the state of others, and states that are kept for them."""

import json

import pytest
import torch
from safetensors import safe_open

from slimclr.config import Pretrain, decisive
from slimclr.errors import UserError
from slimclr.nn.weights import read_tensors, read_weights, save_weights
from slimclr.stages.pretrain import pretrain
from tests.helpers.small_recipe import RECIPE
from tests.unit.stages.test_evaluate import photos

METHODS = {
    "mocov2": {"name": "mocov2", "dim": 8, "queue": 64},
    "mocov3": {"name": "mocov3", "dim": 8, "hidden": 16},
}
NEGATIVES = {"batch_norm": "synchronised", "bn_batch": None}


def recipe(kind="mocov2", **changes):
    values = RECIPE | {"method": METHODS[kind], "views": kind, "slow_start_epoch": 0, "epochs": 1} | changes
    return Pretrain.model_validate(values | (NEGATIVES if kind == "mocov3" else {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data") / "train", each=16, seed=1)


def trained(folder, data, settings, *, seed=0, init=None):
    about = {"data": data, "gpus": 0, "paper": False, "checkpoints": folder / "checkpoints"}
    pretrain(settings, run=folder.name, seed=seed, out=folder, init=init, **about)
    return folder


@pytest.fixture(scope="module", params=list(METHODS))
def kept(request, data, tmp_path_factory):
    """A run that keeps its state."""
    settings = recipe(request.param, keep_state=True)
    return request.param, trained(tmp_path_factory.mktemp("runs") / "first", data, settings)


def begun(monkeypatch, folder, data, settings, init):
    """A method and its optimiser as their training begins, without a step."""
    found = {}

    def look(trainer):
        found.update(method=trainer.method, optimizer=trainer.optimizer)
        raise InterruptedError

    monkeypatch.setattr("slimclr.engine.loop.Trainer.train", look)
    with pytest.raises(InterruptedError):
        trained(folder, data, settings, seed=5, init=init)
    return found["method"], found["optimizer"]


def test_a_state_has_all_that_a_training_had(kept, data, tmp_path, monkeypatch):
    name, first = kept
    tensors, _ = read_tensors(first / "state.safetensors")
    held = {key.split(".")[1] for key in tensors if key.startswith("method.")}
    assert {"query_encoder", "key_encoder"} <= held
    assert ("queue" in held) == (name == "mocov2")
    assert any("predictor" in key for key in tensors) == (name == "mocov3")
    assert any(key.startswith("optimizer.") and tensor.abs().sum() > 0 for key, tensor in tensors.items())
    settings = recipe(name, init="first", init_take="state")
    method, optimizer = begun(monkeypatch, tmp_path / "next", data, settings, first / "state.safetensors")
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, tensors[f"method.{key}"]), key
    parameters = dict(method.trainable().named_parameters())
    for key, parameter in parameters.items():
        buffer = optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(buffer, tensors[f"optimizer.{key}.momentum_buffer"]), key


@pytest.mark.parametrize("head", [True, False])
def test_a_training_begins_with_the_weights_of_another(kept, data, tmp_path, monkeypatch, head):
    name, first = kept
    settings = recipe(name, init="first", init_take="head" if head else "backbone")
    weights = first / "weights.safetensors"
    method, _ = begun(monkeypatch, tmp_path / "next", data, settings, weights)
    given, _ = read_weights(weights)
    for begun_with in (method.exported(), method.key_encoder.state_dict()):
        for key, tensor in given.items():
            same = torch.equal(begun_with[key], tensor)
            # Batch norms of a head without scale begin alike.
            assert same if head or key.startswith("backbone.") else same == ("norms" in key and same), key
    assert head == torch.equal(method.exported()["head.fc1.weight"], given["head.fc1.weight"])


def test_where_it_begins_is_part_of_the_runs_identity(kept, data, tmp_path, capsys):
    name, first = kept
    settings = recipe(name, init="first")
    out = trained(tmp_path / "next", data, settings, init=first / "weights.safetensors")
    document = json.loads((out / "metrics.json").read_text())
    assert document["data_sha256"]["init"] == json.loads((first / "metrics.json").read_text())["weights_sha256"]
    assert "it begins with the weights of first" in document["comparable_because"]
    assert not (out / "state.safetensors").exists()
    # Other weights of the same name begin anew, beside the first ones' checkpoints.
    tensors, header = read_weights(first / "weights.safetensors")
    other = tmp_path / "weights.safetensors"
    save_weights(other, {key: tensor + (tensor.dtype == torch.float32) for key, tensor in tensors.items()}, header)
    capsys.readouterr()
    trained(out, data, settings, init=other)
    assert "going on" not in capsys.readouterr().out
    assert len(list((out / "checkpoints").iterdir())) == 2


def test_keeping_a_state_changes_no_result(data, tmp_path):
    plain, keeping = recipe(), recipe(keep_state=True)
    assert decisive(plain) == decisive(keeping)
    first = trained(tmp_path / "run", data, plain)
    before = (first / "weights.safetensors").read_bytes()
    # A finished training's checkpoint is exported again, with its state.
    trained(first, data, keeping)
    assert (first / "weights.safetensors").read_bytes() == before
    with safe_open(first / "state.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["slimclr_state"])["steps"] == 2
    trained(first, data, plain)
    assert not (first / "state.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "take", "told"),
    [
        ({"backbone": {"depth": 26, "base_width": 8, "widths": [1.0, 0.5]}}, "backbone", "is missing"),
        (
            {
                "backbone": {"depth": 14, "base_width": 8, "widths": [1.0]},
                "distillation": None,
                "loss_weights": "equal",
            },
            "backbone",
            "has no place",
        ),
        ({"backbone": {"depth": 14, "base_width": 16, "widths": [1.0, 0.5]}}, "backbone", "instead of"),
        (
            {"backbone": {"depth": 14, "base_width": 8, "widths": [1.0, 0.5], "overlap": False}},
            "backbone",
            "share channels",
        ),
        ({"method": METHODS["mocov2"] | {"dim": 16}}, "head", "head.fc2.weight is (8, 256) instead of (16, 256)"),
        ({"method": METHODS["mocov2"] | {"queue": 32}}, "state", "queue is (8, 64) instead of (8, 32)"),
    ],
)
def test_what_does_not_fit_is_listed(data, tmp_path_factory, tmp_path, changes, take, told):
    first = tmp_path_factory.getbasetemp() / "fits"
    if not first.exists():
        trained(first, data, recipe(keep_state=True))
    file = first / ("state.safetensors" if take == "state" else "weights.safetensors")
    with pytest.raises(UserError) as error:
        trained(tmp_path / "next", data, recipe(init="first", init_take=take, **changes), init=file)
    assert told in str(error.value)
    assert str(file) in str(error.value)
    assert not (tmp_path / "next/weights.safetensors").exists()


def test_files_of_another_kind_are_refused(kept, data, tmp_path):
    name, first = kept
    state, weights = recipe(name, init="first", init_take="state"), recipe(name, init="first")
    for settings, init, told in (
        (state, first / "weights.safetensors", "not a training's state"),
        (weights, first / "state.safetensors", "no slimclr header"),
        (weights, tmp_path / "none.safetensors", "no such file to begin with"),
        (weights, None, "go together"),
        (recipe(name), first / "weights.safetensors", "go together"),
    ):
        with pytest.raises(UserError, match=told):
            trained(tmp_path / "next", data, settings, init=init)
