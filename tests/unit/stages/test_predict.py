"""Predictions and features of photos of all kinds, in order, with what cannot be read named."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from slimclr.cli import main
from tests.helpers.small_network import CLASSES, write_run


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    results = tmp_path_factory.mktemp("slim") / "results"
    backbone, probe = write_run(results)
    return results, backbone, probe


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos, among them a CMYK and a 16-bit one, a text and an empty file."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, mode in (("b.jpg", "RGB"), ("sub/a.JPEG", "RGB"), ("cmyk.jpg", "CMYK"), ("grey.png", "L")):
        (folder / name).parent.mkdir(exist_ok=True)
        shape = (80, 90) if mode == "L" else (80, 90, len(mode))
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8), mode).save(folder / name)
    Image.fromarray(rng.integers(0, 2**16, (80, 90), dtype=np.uint16)).save(folder / "deep.png")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("not a photo")
    (folder / ".hidden").write_text("nobody looks")
    return folder


READ = ["b.jpg", "cmyk.jpg", "deep.png", "grey.png", "sub/a.JPEG"]


def views(folder, *, resize=72):
    """Photos as the network sees them, by torchvision's own transforms."""
    from torchvision.transforms import v2

    steps = [v2.Resize(resize), v2.CenterCrop(64), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    images = []
    for name in READ:
        image = Image.open(folder / name)
        if name == "deep.png":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        images.append(transform(image.convert("RGB")))
    return torch.stack(images)


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_exported_network_predicts_as_the_slimmable_one(slim, photos, tmp_path, capsys):
    results, backbone, probe = slim
    assert main(["predict", "slim", str(photos), "--results", str(results), "--workers", "0", "--top", "2"]) == 0
    said = capsys.readouterr()
    found = rows(said.out)
    with torch.no_grad():
        for width in backbone.widths:
            shares = probe(backbone(views(photos), width), width).softmax(dim=1).topk(2)
            own = [row for row in found if float(row["width"]) == width]
            assert [row["name"] for row in own[::2]] == READ
            assert [row["class"] for row in own] == [CLASSES[index] for index in shares.indices.flatten()]
            np.testing.assert_allclose([float(row["probability"]) for row in own], shares.values.flatten(), atol=2e-5)
    assert "skipped empty.jpg: not an image\nskipped notes.txt: not an image\n" in said.err
    assert said.err.endswith("2 of 7 files skipped, 5 read\n")

    command = ["--results", str(results), "--width", "0.25", "--head", "probe"]
    assert main(["export", "slim", "--out", str(tmp_path / "taken"), *command]) == 0
    out = tmp_path / "taken.parquet"
    assert main(["predict", str(tmp_path / "taken"), str(photos), "--top", "2", "--out", str(out)]) == 0
    table = pd.read_parquet(out)
    narrow = [row for row in found if row["width"] == "0.25"]
    assert table["class"].tolist() == [row["class"] for row in narrow]
    assert table["name"].tolist() == [row["name"] for row in narrow]


def test_a_list_keeps_its_order_and_names_get_said(slim, photos, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos}/grey.png\n{photos}/gone.jpg\n{photos}/b.jpg\n")
    (tmp_path / "names.txt").write_text("n01440764 tench, Tinca tinca\nn02102040 springer\nn02979186 cassette player\n")
    command = ["predict", "slim", str(listed), "--results", str(slim[0]), "--width", "0.5", "1.0", "--top", "1"]
    assert main([*command, "--names", str(tmp_path / "names.txt")]) == 0
    said = capsys.readouterr()
    assert [row["name"] for row in rows(said.out)[::2]] == [f"{photos}/grey.png", f"{photos}/b.jpg"]
    assert [row["width"] for row in rows(said.out)[:2]] == ["1.0", "0.5"]
    assert {row["class_name"] for row in rows(said.out)} <= {"tench, Tinca tinca", "springer", "cassette player"}
    assert f"skipped {photos}/gone.jpg: No such file or directory" in said.err


@pytest.mark.parametrize("suffix", ["csv", "parquet", "safetensors"])
def test_features_of_several_widths_in_one_pass(slim, photos, tmp_path, suffix):
    results, backbone, _ = slim
    out = tmp_path / f"features.{suffix}"
    command = ["features", "slim", str(photos), "--results", str(results), "--width", "1.0", "0.25", "--batch", "2"]
    assert main([*command, "--out", str(out)]) == 0
    if suffix == "safetensors":
        found = {float(width): values for width, values in load_file(out).items()}
        with safe_open(out, "np") as file:
            assert json.loads(file.metadata()["names"]) == READ
    else:
        table = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
        assert table["name"].tolist() == [name for name in READ for _ in range(2)]
        chosen = {width: table[table["width"] == width] for width in (1.0, 0.25)}
        if suffix == "csv":
            found = {w: t.iloc[:, 2:].dropna(axis=1).to_numpy() for w, t in chosen.items()}
        else:
            found = {w: np.stack(t["features"].tolist()) for w, t in chosen.items()}
    with torch.no_grad():
        for width, values in found.items():
            np.testing.assert_allclose(values, backbone(views(photos, resize=73), width), rtol=1e-3, atol=1e-4)


def test_maps_of_a_stage(slim, photos, tmp_path):
    results, backbone, _ = slim
    out = tmp_path / "maps.npy"
    command = ["features", "slim", str(photos), "--results", str(results), "--width", "0.5", "--stage", "layer2"]
    assert main([*command, "--maps", "--out", str(out)]) == 0
    with torch.no_grad():
        expected = backbone.feature_maps(views(photos, resize=73), 0.5)[1]
    np.testing.assert_allclose(np.load(out), expected, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "maps.names.txt").read_text().splitlines() == READ


def test_classes_of_a_data_set(slim, extracted, capsys):
    command = ["predict", "slim", str(extracted), "--results", str(slim[0]), "--width", "0.25", "--top", "1"]
    assert main(command) == 0
    names = [row["name"] for row in rows(capsys.readouterr().out)]
    assert names == sorted(names)
    assert all(name.count("/") == 1 for name in names)


def test_bad_input_is_one_line(slim, photos, tmp_path, capsys):
    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
        assert len(lines) == 1
        return lines[0]

    common = ["--results", slim[0], "--workers", "0"]
    assert "empty.jpg: not an image; mend it" in refused("predict", "slim", photos, "--strict", *common)
    assert "no such image, folder" in refused("predict", "slim", photos / "none.jpg", *common)
    assert "no image there can be read (1 skipped)" in refused("predict", "slim", photos / "empty.jpg", *common)
    assert "width 0.3: these weights were trained at" in refused("predict", "slim", photos, "--width", "0.3", *common)
    out = tmp_path / "f.npy"
    assert "an .npy holds one width" in refused("features", "slim", photos, "--out", out, *common)
    assert "its suffix says the format" in refused("features", "slim", photos, "--out", tmp_path / "f.txt", *common)
    line = refused("features", "slim", photos, "--stage", "layer9", "--width", "0.5", "--out", out, *common)
    assert "--stage layer9: this network has layer1, layer2, layer3, layer4" in line
    assert list(tmp_path.iterdir()) == []
