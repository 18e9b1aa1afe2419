"""Quick probes of a run: what they give, what they keep, what they refuse."""

import hashlib
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slimclr.cli import main
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import save_weights
from slimclr.probe.features import Features
from tests.helpers.memory_images import MemoryImages

RECIPE = {"image_size": 32, "resize": 36, "workers": 0, "neighbours": [3, 10], "temperatures": [0.1]}


def written(images, folder):
    """A data set as a folder of classes."""
    for key, data in zip(images.keys, images._files, strict=True):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


def weights(path, seed=0, change=lambda tensors: None):
    torch.manual_seed(seed)
    backbone = SlimmableResNet(14, 8, (1.0, 0.5), zero_init_residual=False)
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    change(tensors)
    save_weights(path, tensors, {"stage": "pretrain", "run": "r", **backbone.shape})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return written(MemoryImages(60, classes=3), folder / "train"), written(MemoryImages(24, classes=3), folder / "val")


def command(folder, data, *, recipe=RECIPE, file="weights.safetensors", seed=0):
    train, val = data
    return [
        "quick", "--name", "r", "--seed", str(seed), "--recipe", json.dumps(recipe), "--weights", str(folder / file),
        "--train", str(train), "--val", str(val), "--out", str(folder / "metrics.json"),
        "--checkpoints", str(folder / "work"),
    ]  # fmt: skip


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_every_widths_figures_are_those_of_its_features(data, tmp_path):
    weights(tmp_path / "weights.safetensors")
    assert main(command(tmp_path, data)) == 0
    metrics = read(tmp_path)
    assert (metrics["stage"], list(metrics["widths"])) == ("quick", ["1.0", "0.5"])
    assert "not the paper's protocol" in metrics["protocol"]
    identity = json.loads((tmp_path / "work/identity.json").read_text())
    labels = {"train": np.repeat(np.arange(3), 20), "val": np.repeat(np.arange(3), 8)}
    for width, figures in metrics["widths"].items():
        bank, queries = (
            next(Features(tmp_path / "work" / split, n, {1.0: 256, 0.5: 128}, identity).blocks(float(width)))[1]
            for split, n in (("train", 60), ("val", 24))
        )
        cosines = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).double().numpy()
        for neighbours in (3, 10):
            right = 0
            for row, wanted in zip(cosines, labels["val"], strict=True):
                near = np.argsort(-row)[:neighbours]
                sums = np.bincount(labels["train"][near], np.exp(row[near] / 0.1), minlength=3)
                right += sums.argmax() == wanted
            assert figures[f"knn_top1_k{neighbours}_t0.1"] == pytest.approx(100 * right / 24, abs=1e-3)
        # The final classifier is trained on all training images with the chosen penalty.
        x, hot = bank.double().numpy(), np.eye(3)[labels["train"]]
        mean = x.mean(axis=0)
        gram = (x - mean).T @ (x - mean) + figures["ridge_alpha"] * np.eye(x.shape[1])
        scores = (queries.double().numpy() - mean) @ np.linalg.solve(gram, (x - mean).T @ hot)
        assert figures["ridge_top1"] == pytest.approx(100 * (scores.argmax(axis=1) == labels["val"]).mean(), abs=1e-3)
        assert figures["ridge_top5"] == 100.0  # of three classes
        held = figures["ridge_held_out_top1"]
        assert held[f"{figures['ridge_penalty']:g}"] == max(held.values())
        assert all(round(value * 6 / 100, 3).is_integer() for value in held.values())  # six of sixty images


def test_what_is_there_is_not_computed_again_and_other_weights_are_noticed(data, tmp_path, capfd):
    weights(tmp_path / "weights.safetensors")
    assert main(command(tmp_path, data)) == 0
    first, work = read(tmp_path)["widths"], tmp_path / "work"
    blocks = [*work.glob("*/*.safetensors")]
    assert len(blocks) == 2
    before = {path: path.stat().st_mtime_ns for path in blocks}
    (work / "width_0.5.json").unlink()
    capfd.readouterr()
    assert main(command(tmp_path, data)) == 0
    assert {path: path.stat().st_mtime_ns for path in blocks} == before
    assert read(tmp_path)["widths"] == first
    assert "images/s" not in capfd.readouterr().err
    # A width's own file is used as it is.
    done = json.loads((work / "width_1.0.json").read_text())
    done["figures"]["ridge_top1"] = 12.5
    done["sha256"] = hashlib.sha256(json.dumps(done["figures"], sort_keys=True).encode()).hexdigest()
    (work / "width_1.0.json").write_text(json.dumps(done))
    assert main(command(tmp_path, data)) == 0
    assert read(tmp_path)["widths"]["1.0"]["ridge_top1"] == 12.5
    # But not by another recipe, nor by other weights.
    assert main(command(tmp_path, data, recipe=RECIPE | {"penalties": [0.1]})) == 0
    assert list(read(tmp_path)["widths"]["1.0"]["ridge_held_out_top1"]) == ["0.1"]
    weights(tmp_path / "weights.safetensors", seed=1)
    capfd.readouterr()
    assert main(command(tmp_path, data)) == 0
    assert {path: path.stat().st_mtime_ns for path in blocks}.items().isdisjoint(before.items())
    told = capfd.readouterr().err
    assert f"{work}: features of something else (weights: " in told
    assert "removed, they are computed anew" in told


def test_features_copied_from_another_run_are_refused_in_one_line(data, tmp_path, capfd):
    weights(tmp_path / "weights.safetensors")
    weights(tmp_path / "other.safetensors", seed=1)
    assert main(command(tmp_path, data)) == 0
    shutil.copytree(tmp_path / "work/train", tmp_path / "copied")
    assert main(command(tmp_path, data, file="other.safetensors")) == 0
    shutil.rmtree(tmp_path / "work/train")
    shutil.copytree(tmp_path / "copied", tmp_path / "work/train")
    (tmp_path / "work/width_1.0.json").unlink()
    capfd.readouterr()
    assert main(command(tmp_path, data, file="other.safetensors")) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "work/train/00000.safetensors: features of something else (weights: " in line
    assert f"remove {tmp_path}/work and run this stage again" in line


def test_bad_weights_and_few_images_give_one_line(data, tmp_path, capfd):
    def spoil(tensors):
        tensors["backbone.stages.3.0.bn3.norms.0_5.weight"][0] = 1e38
        tensors["backbone.stages.3.0.bn3.norms.0_5.bias"][0] = 3.4e38

    weights(tmp_path / "weights.safetensors", change=spoil)
    assert main(command(tmp_path, data)) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert "features of n0000000" in line
    assert "at width 0.5 are not finite" in line
    few = written(MemoryImages(4, classes=4), tmp_path / "few"), written(MemoryImages(4, classes=4), tmp_path / "val")
    for image in (tmp_path / "few").glob("*/*"):
        image.rename(tmp_path / "few/n00000000" / image.name)
    weights(tmp_path / "weights.safetensors")
    capfd.readouterr()
    assert main(command(tmp_path, few)) == 2
    assert "its classes differ" in capfd.readouterr().err


def test_a_signal_stops_it_and_it_goes_on(data, tmp_path, capfd):
    weights(tmp_path / "weights.safetensors")
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: None)

    def ask():
        while not ended.wait(0.01):
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    try:
        asking.start()
        assert main(command(tmp_path, data)) == 75
    finally:
        ended.set()
        asking.join()
        signal.signal(signal.SIGTERM, before)
    assert "asked to stop (SIGTERM)" in capfd.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
    assert main(command(tmp_path, data)) == 0
    assert set(read(tmp_path)["widths"]) == {"1.0", "0.5"}


def test_logistic_regression_on_request(data, tmp_path):
    weights(tmp_path / "weights.safetensors")
    assert main(command(tmp_path, data, recipe=RECIPE | {"logistic": True})) == 0
    for figures in read(tmp_path)["widths"].values():
        # Of 24 images; top-5 of three classes.
        assert round(figures["logistic_top1"] * 24 / 100, 3).is_integer()
        assert figures["logistic_top5"] == 100.0


def test_fewer_images_than_classes_are_refused(data, tmp_path, capsys):
    weights(tmp_path / "weights.safetensors")
    train = written(MemoryImages(3, classes=3), tmp_path / "train")
    assert main(command(tmp_path, (train, data[1]))) == 2
    # One of them is held out to choose the penalty by.
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: ridge: 2 training images, without those of held_out, for 3 classes; give it at least as many" in last
    assert not (tmp_path / "metrics.json").exists()


def test_what_is_kept_of_an_earlier_start_and_damaged_is_computed_anew(data, tmp_path):
    weights(tmp_path / "weights.safetensors")
    assert main(command(tmp_path, data)) == 0
    wanted = read(tmp_path)["widths"]
    for name in ("width_0.5.json", "identity.json"):
        whole = (tmp_path / "work" / name).read_text()
        for damaged in ("", "[1]", whole[: len(whole) // 2], "[" * 100_000, whole.replace("9", "8").replace("1", "7")):
            (tmp_path / "work" / name).write_text(damaged)
            assert main(command(tmp_path, data)) == 0
            assert read(tmp_path)["widths"] == wanted
