"""An LMDB of images that were scaled down."""

import io
import json

import pytest
from PIL import Image

from slimclr.config import Config, Pretrain
from slimclr.data.stores import open_images, resized
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.resized import write_resized_lmdb
from slimclr.data.stores.verify import verify
from slimclr.stages.pretrain import pretrain
from tests.helpers.small_recipe import RECIPE

SMALL = {"shorter_side": 40, "quality": 80, "threads": 2}


def written(extracted, path, **changes):
    write_resized_lmdb(extracted, extracted / "manifest.parquet", path, **SMALL | changes)
    return open_images(path)


def sizes(images):
    return [Image.open(io.BytesIO(images.read(index))).size for index in range(len(images))]


def test_larger_images_get_the_shorter_side_and_the_rest_keep_their_bytes(extracted, tmp_path):
    folder, images = FolderImages(extracted), written(extracted, tmp_path / "train.lmdb")
    assert (images.keys, images.labels.tolist()) == (folder.keys, folder.labels.tolist())
    before = sizes(folder)
    assert any(min(size) > 40 for size in before)
    for index, (old, new) in enumerate(zip(before, sizes(images), strict=True)):
        assert min(new) == min(40, *old)
        assert new[0] / new[1] == pytest.approx(old[0] / old[1], rel=0.05)
        assert (images.read(index) == folder.read(index)) == (min(old) <= 40)
    assert images.resized == {"shorter_side": 40, "quality": 80}
    assert images_digest(images) != images_digest(folder), "another data set: other checkpoints, other results"
    assert [path.name for path in tmp_path.iterdir()] == ["train.lmdb"]
    assert "its own tables" in verify(tmp_path / "train.lmdb", manifest=extracted / "manifest.parquet", content=True)


def killed(monkeypatch, extracted, out):
    """Write until the twelfth image, and end there; how many were scaled down."""
    made, shrink = [], resized.shrink

    def dies(data, key, **size):
        made.append(key)
        if len(made) == 12:
            raise KeyboardInterrupt
        return shrink(data, key, **size)

    monkeypatch.setattr("slimclr.data.stores.lmdb_writer._COMMIT_EVERY_BYTES", 2000)
    with monkeypatch.context() as patched:
        patched.setattr(resized, "shrink", dies)
        with pytest.raises(KeyboardInterrupt):
            written(extracted, out, threads=1)
    return len(made)


def test_a_killed_run_goes_on_and_another_size_begins_anew(extracted, tmp_path, monkeypatch):
    whole = written(extracted, tmp_path / "whole.lmdb")
    out, made, shrink = tmp_path / "parts.lmdb", [], resized.shrink
    first = killed(monkeypatch, extracted, out)
    monkeypatch.setattr(resized, "shrink", lambda data, key, **size: (made.append(key), shrink(data, key, **size))[1])
    images = written(extracted, out)
    assert first + len(made) < 2 * len(images), "it went on"
    assert images.digest == whole.digest
    assert all(images.read(index) == whole.read(index) for index in range(len(whole)))
    made.clear()
    out.unlink()
    assert written(extracted, out, quality=50).digest != whole.digest
    assert len(made) == len(images)


def test_an_unfinished_one_of_another_quality_is_not_gone_on_from(extracted, tmp_path, monkeypatch, capsys):
    killed(monkeypatch, extracted, tmp_path / "train.lmdb")
    images = written(extracted, tmp_path / "train.lmdb", quality=50)
    assert "begun again" in capsys.readouterr().err
    assert images.digest == written(extracted, tmp_path / "alone.lmdb", quality=50).digest


def test_a_run_on_it_says_that_it_is_not_comparable(extracted, tmp_path):
    written(extracted, tmp_path / "train.lmdb")
    method = {"name": "mocov2", "dim": 8, "queue": 32}
    recipe = Pretrain.model_validate(
        RECIPE | {"method": method, "epochs": 1, "slow_start_epoch": 0, "batch": 8, "bn_batch": 4}
    )
    out = tmp_path / "out"
    places = {"data": tmp_path / "train.lmdb", "out": out, "checkpoints": tmp_path / "work"}
    pretrain(recipe, run="small", seed=0, gpus=0, paper=True, **places)
    told = json.loads((out / "metrics.json").read_text())
    assert told["comparable"] is False
    assert told["comparable_because"] == ["training images are scaled down to 40 px (JPEG quality 80)"]


def test_it_needs_the_folders():
    with pytest.raises(ValueError, match="set keep_folder: true"):
        Config.model_validate({"imagenet": {"lmdb_resize": {}, "keep_folder": False}})


def test_the_command_refuses_a_quality_that_pillow_lacks(extracted, tmp_path, capsys):
    from slimclr.cli import main

    command = ["convert", "--folder", str(extracted), "--out", str(tmp_path / "a.lmdb"), "--shorter-side", "40"]
    assert main([*command, "--quality", "99"]) == 2
    assert "--quality 99: must be between 1 and 95" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
