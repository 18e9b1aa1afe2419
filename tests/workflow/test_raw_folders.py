"""ImageNet as folders through the rules: extracted once, whatever becomes of the folders then."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from test_pipeline import ROOT, Pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / ".venvs/train/installed.sha256").exists(), reason="needs .venvs/train; `make test` installs it"
    ),
]


def _photos(folder, names):
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (0, 20 * index, 99)).save(folder / name)


def _extract(pipeline, *options):
    first, second = (f"work/data/imagenet/{split}.lmdb" for split in ("train", "val"))
    command = pipeline.command(first, *options)
    command.insert(2, second)
    done = subprocess.run(
        command, cwd=pipeline.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _pipeline(folder, **imagenet):
    pipeline = Pipeline(folder)
    del pipeline.config["miniature"]
    pipeline.config["paths"]["work"] = "work"
    pipeline.config["imagenet"] |= imagenet
    return pipeline


def test_a_folders_age_reruns_nothing(tmp_path):
    pipeline = _pipeline(tmp_path / "p", train="train", val="val")
    raw = tmp_path / "p/raw"
    for split in ("train", "val"):
        _photos(raw / split, [f"n0000000{wnid}/{image}.JPEG" for wnid in (1, 2) for image in (1, 2)])
    assert "4 images in 2 classes" in _extract(pipeline)
    (raw / "train/.DS_Store").write_bytes(b"x")
    (raw / "train/README.txt").write_text("laid beside the classes")
    os.utime(raw / "val")
    assert "Nothing to be done" in _extract(pipeline, "-n")
    shutil.rmtree(raw)
    assert "Nothing to be done" in _extract(pipeline, "-n")


def test_kaggles_zip_for_everything(tmp_path):
    name = "imagenet-object-localization-challenge.zip"
    pipeline = _pipeline(tmp_path / "p", train=name, val=name, devkit=name, keep_folder=False)
    base = Path("ILSVRC/Data/CLS-LOC")
    photos = [base / f"train/n0000000{wnid}/n0000000{wnid}_1.JPEG" for wnid in (1, 2)]
    photos += [base / f"val/ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2)]
    _photos(tmp_path, photos)
    (tmp_path / "p/raw").mkdir()
    with zipfile.ZipFile(tmp_path / "p/raw" / name, "w") as file:
        for photo in photos:
            file.write(tmp_path / photo, photo)
        lines = [f"ILSVRC2012_val_0000000{number},n0000000{number} 1 2 3 4 " for number in (1, 2)]
        file.writestr("LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *lines]))
    said = _extract(pipeline)
    assert said.count("2 images in 2 classes") == 2
    assert "Nothing to be done" in _extract(pipeline, "-n")
