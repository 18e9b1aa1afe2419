"""Checkpoints belong to what was read: other data or weights begin anew, the same in another place goes on."""

import hashlib
import io
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import slimclr.stages.pretrain
import slimclr.stages.probe
from slimclr.config import Pretrain, Probe
from slimclr.data.manifest import MANIFEST, Record, write_manifest
from slimclr.data.stores import open_images
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.lmdb_writer import LMDBWriter
from slimclr.engine.checkpoints import list_checkpoints
from slimclr.errors import UserError
from slimclr.nn.weights import read_weights
from slimclr.stages.pretrain import pretrain
from slimclr.stages.probe import probe
from tests.helpers.small_recipe import RECIPE

COUNT, SIDE = 16, 24
KINDS = ("lmdb", "folder", "folder with manifest", "recordio")
METHOD = {"name": "mocov2", "dim": 8, "queue": 16}
PRETRAIN = RECIPE | {"method": METHOD, "batch": 8, "bn_batch": 4, "slow_start_epoch": 0}
PROBE = {"epochs": 2, "batch": 8, "optimizer": {"lr": 0.3}, "image_size": 32, "resize": 36, "workers": 0}
STEPS = 2 * COUNT // 8


def photos(seed):
    """Key and bytes of images: other ones for each seed, but always with the same names and sizes."""
    draw = np.random.default_rng(seed)
    for index in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "BMP")
        yield f"n{index * 2 // COUNT}/{index:02d}.bmp", file.getvalue()


def write(kind, place, seed):
    """A data set at a place without suffix; gives its path."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "lmdb":
        path = place.with_suffix(".lmdb")
        with LMDBWriter(path, []) as writer:
            for key, data in photos(seed):
                writer.add((key, len(data), hashlib.sha1(data).hexdigest()), data)
            writer.finish()
        return path
    if kind == "recordio":
        path = place.with_suffix(".rec")
        rec, idx, lst = b"", "", ""
        for index, (key, data) in enumerate(photos(seed)):
            label = int(key[1])
            idx, lst = f"{idx}{index}\t{len(rec)}\n", f"{lst}{index}\t{label}\t{key}\n"
            content = struct.pack("<IfQQ", 0, label, index, 0) + data
            rec += struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4)
        path.write_bytes(rec)
        path.with_suffix(".idx").write_text(idx)
        path.with_suffix(".lst").write_text(lst)
        return path
    records = []
    for key, data in photos(seed):
        path = place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        checksum = hashlib.sha1(data).hexdigest()
        records.append(Record(key, key.partition("/")[0], len(data), SIDE, SIDE, "RGB", "BMP", checksum, 1, 0))
    if kind == "folder with manifest":
        write_manifest(records, place / MANIFEST)
    return place


def train(data, folder, out="out", resume=None, **changes):
    """Pre-train; gives weights and metrics."""
    places = {"data": data, "out": folder / out, "checkpoints": folder / "work", "resume": resume}
    recipe = Pretrain.model_validate(PRETRAIN | changes)
    pretrain(recipe, run="x", seed=0, gpus=0, paper=False, **places)
    tensors, _ = read_weights(folder / out / "weights.safetensors")
    return tensors, json.loads((folder / out / "metrics.json").read_text())


def equal(first, second):
    return all(torch.equal(first[name], tensor) for name, tensor in second.items())


@pytest.fixture
def leave_unfinished(monkeypatch):
    """Trainings reach their last epoch, but are not noted as finished: they are as if interrupted there."""
    for stage in (slimclr.stages.pretrain, slimclr.stages.probe):
        monkeypatch.setattr(stage, "finish", lambda *_: None)


@pytest.mark.parametrize("kind", KINDS)
def test_other_images_are_trained_on_from_the_beginning(kind, tmp_path, capsys):
    place = tmp_path / "data/train"
    first, metrics = train(write(kind, place, 1), tmp_path)
    shutil.rmtree(place.parent)
    other = write(kind, place, 2)
    capsys.readouterr()
    second, other_metrics = train(other, tmp_path)
    assert "going on" not in capsys.readouterr().out
    assert other_metrics["steps"] == metrics["steps"] == STEPS
    assert len((tmp_path / "out/metrics.jsonl").read_text().splitlines()) == STEPS
    assert not equal(first, second)
    assert equal(second, train(other, tmp_path / "alone")[0])
    assert other_metrics["data_sha256"] == {"train_images": images_digest(open_images(other))} != metrics["data_sha256"]


@pytest.mark.usefixtures("leave_unfinished")
def test_an_unfinished_run_is_not_gone_on_with_on_other_images(tmp_path, capsys):
    first, second = (write("lmdb", tmp_path / f"{seed}/train", seed) for seed in (1, 2))
    train(first, tmp_path, epochs=1)
    digests = " -> ".join(open_images(path).digest[:12] for path in (first, second))
    with pytest.raises(UserError) as error:
        train(second, tmp_path)
    (folder,) = (tmp_path / "work").glob("*/seed0/run.json")
    assert str(error.value) == (
        f"{folder.parent}: holds the unfinished run of other data (train_images: {digests}); put back what changed to "
        "go on with it, or remove that folder to begin anew"
    )
    capsys.readouterr()
    train(first, tmp_path)
    assert f"going on after step {STEPS // 2} of {STEPS}" in capsys.readouterr().out


def test_a_named_checkpoint_of_other_images_is_refused(tmp_path):
    first, second = (write("lmdb", tmp_path / f"{seed}/train", seed) for seed in (1, 2))
    train(first, tmp_path)
    path = next(path for folder in (tmp_path / "work").glob("*/seed0") for path in list_checkpoints(folder))
    digests = " -> ".join(open_images(data).digest[:12] for data in (first, second))
    with pytest.raises(UserError, match=rf"is of another run \(train_images: {digests}\); name one of this run"):
        train(second, tmp_path / "other", resume=path)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("lmdb", "copy"),
        ("lmdb", "link"),
        ("lmdb", "made again"),
        ("folder", "copy"),
        ("folder with manifest", "link"),
        ("recordio", "made again"),
    ],
)
def test_the_same_images_in_another_place_go_on(kind, how, tmp_path, capsys):
    data = write(kind, tmp_path / "data/train", 1)
    weights, metrics = train(data, tmp_path)
    other = tmp_path / "elsewhere" / data.name
    if how == "copy":
        shutil.copytree(data.parent, other.parent)
    elif how == "link":
        other.parent.symlink_to(data.parent)
    else:
        write(kind, other.with_suffix(""), 1)
        os.utime(other, (1, 1))
    capsys.readouterr()
    again, same = train(other, tmp_path)
    assert f"going on after step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert equal(weights, again)
    assert same["data_sha256"] == metrics["data_sha256"]


def test_a_folder_and_the_lmdb_made_of_it_are_one_data_set(tmp_path):
    folder = write("folder with manifest", tmp_path / "train", 1)
    recorded = images_digest(open_images(folder))
    assert recorded == open_images(write("lmdb", tmp_path / "train", 1)).digest
    # A manifest that does not describe what is there is not believed.
    path = folder / "n0/00.bmp"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert images_digest(open_images(folder)) != recorded


@pytest.mark.parametrize("change", ["name", "class", "size", "content"])
@pytest.mark.parametrize("kind", ["folder", "folder with manifest"])
def test_every_change_of_a_folder_is_seen(kind, change, tmp_path):
    folder = write(kind, tmp_path / "train", 1)
    before = images_digest(open_images(folder))
    path = folder / "n0/03.bmp"
    if change == "name":
        path.rename(path.with_name("33.bmp"))
    elif change == "class":
        path.rename(folder / "n1/03.bmp")
    elif change == "size":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path.write_bytes(bytes(reversed(path.read_bytes())))
    assert images_digest(open_images(folder)) != before


def evaluate(weights, folder, train="train", val="val"):
    """Probe weights; gives the metrics."""
    out = folder / "probe.json"
    places = {"train": folder / f"{train}.lmdb", "val": folder / f"{val}.lmdb", "checkpoints": folder / "probe"}
    probe(Probe.model_validate(PROBE), run="x", seed=0, weights=weights, out=out, gpus=0, **places)
    return json.loads(out.read_text())


@pytest.fixture
def probed(tmp_path):
    """Weights, and the metrics of their probe."""
    for name, seed in (("train", 1), ("val", 2), ("train2", 3), ("val2", 4)):
        write("lmdb", tmp_path / name, seed)
    train(tmp_path / "train.lmdb", tmp_path)
    weights = tmp_path / "out/weights.safetensors"
    return weights, evaluate(weights, tmp_path)


@pytest.mark.parametrize("changed", ["train", "val", "weights"])
def test_a_probe_of_other_inputs_is_trained_from_the_beginning(changed, probed, tmp_path, capsys):
    weights, first = probed
    digests = {name: open_images(tmp_path / f"{name}.lmdb").digest for name in ("train", "val")}
    assert first["data_sha256"] == {f"{name}_images": digest for name, digest in digests.items()}
    given = {"weights": weights}
    if changed == "weights":
        train(tmp_path / "train2.lmdb", tmp_path, out="out2")
        given["weights"] = tmp_path / "out2/weights.safetensors"
    else:
        given[changed] = f"{changed}2"
    capsys.readouterr()
    second = evaluate(folder=tmp_path, **given)
    assert "going on" not in capsys.readouterr().out
    assert (second["data_sha256"] == first["data_sha256"]) == (changed == "weights")
    assert (second["weights_sha256"] == first["weights_sha256"]) == (changed != "weights")
    (tmp_path / "probe").rename(tmp_path / "probe_before")
    assert evaluate(folder=tmp_path, **given)["widths"] == second["widths"]


def test_a_probe_of_the_same_inputs_in_another_place_goes_on(probed, tmp_path, capsys):
    weights, first = probed
    shutil.copy(tmp_path / "train.lmdb", tmp_path / "elsewhere.lmdb")
    (tmp_path / "link.lmdb").symlink_to("val.lmdb")
    copied = Path(shutil.copy(weights, tmp_path / "copied.safetensors"))
    capsys.readouterr()
    again = evaluate(copied, tmp_path, train="elsewhere", val="link")
    assert f"going on after step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert again["widths"] == first["widths"]


@pytest.mark.usefixtures("leave_unfinished")
def test_an_unfinished_probe_is_not_gone_on_with_on_other_images(probed, tmp_path):
    weights, _ = probed
    with pytest.raises(UserError, match=r"holds the unfinished run of other data \(train_images: \w{12} -> \w{12}\)"):
        evaluate(weights, tmp_path, train="train2")
