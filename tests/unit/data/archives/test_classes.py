"""Other classes in val than in train are refused before anything is unpacked or trained."""

import json

import pytest

from slimclr.cli import main
from slimclr.data.archives import read_classes
from slimclr.data.archives.classes import check_data_sets
from slimclr.data.archives.extract import extract_val
from slimclr.data.stores.convert import write_lmdb
from slimclr.errors import UserError
from slimclr.stages.data import extract
from tests.helpers.small_recipe import RECIPE


@pytest.fixture(scope="module")
def val(miniature, tmp_path_factory):
    """The validation photos, in one folder per class."""
    folder = tmp_path_factory.mktemp("val") / "val"
    extract("val", archive=miniature.val, devkit=miniature.devkit, expect="subset", out=folder)
    return folder


@pytest.fixture
def numbered(val, tmp_path):
    """The same with folders 1..n."""
    for number, folder in enumerate(sorted(path for path in val.iterdir() if path.is_dir()), 1):
        (tmp_path / "numbered").mkdir(exist_ok=True)
        (tmp_path / "numbered" / str(number)).symlink_to(folder)
    return tmp_path / "numbered"


def _index_list(miniature, path):
    """A list as Caffe's val.txt."""
    classes = read_classes(miniature.devkit)
    ranks = {wnid: rank for rank, wnid in enumerate(sorted(set(classes.values())))}
    path.write_text("".join(f"{name} {ranks[wnid]}\n" for name, wnid in classes.items()))
    return path


def test_a_list_of_indices_is_named_for_what_it_is(miniature, tmp_path):
    listed = _index_list(miniature, tmp_path / "val.txt")
    first = listed.read_text().splitlines()[0]
    with pytest.raises(UserError) as caught:
        extract_val(miniature.val, listed, tmp_path / "val", expect="subset")
    assert str(caught.value) == (
        f"{listed}: name and index, not wnid: {first!r}; which class an index means depends on who counted: write "
        "lines 'name wnid' (n01440764), or give ILSVRC2012_devkit_t12.tar.gz"
    )
    assert not list((tmp_path / "val").glob("*/*.JPEG"))


def test_val_in_numbered_folders_is_refused_at_either_extraction(miniature, numbered, tmp_path):
    wnids = sorted(set(read_classes(miniature.devkit).values()))
    assert len(wnids) == 4
    with pytest.raises(UserError) as caught:
        extract("val", archive=numbered, devkit=None, expect="subset", out=tmp_path / "out", other=miniature.train)
    assert str(caught.value) == (
        f"{numbered}: its classes differ from those of {miniature.train} (4 classes and 4; only in val 1, 2, 3, ...; "
        f"only in train {', '.join(wnids[:3])}, ...); name the classes of both by WordNet id, and make the wrong one "
        "again"
    )
    with pytest.raises(UserError, match="its classes differ from those of"):
        extract("train", archive=miniature.train, devkit=None, expect="subset", out=tmp_path / "out", other=numbered)
    assert not (tmp_path / "out").exists()


def test_a_list_of_other_classes_is_refused_at_either_extraction(miniature, tmp_path):
    listed = tmp_path / "val.txt"
    listed.write_text("".join(f"{name} n0{wnid[2:]}\n" for name, wnid in read_classes(miniature.devkit).items()))
    for split, archive, other in (
        ("train", miniature.train, miniature.val),
        ("val", miniature.val, miniature.train),
    ):
        with pytest.raises(UserError, match=r"val\.txt: its classes differ from those of .*img_train\.tar \("):
            extract(split, archive=archive, devkit=listed, expect="subset", out=tmp_path / "out", other=other)


def test_the_command_line_compares(miniature, numbered, tmp_path, capsys):
    command = ["extract", "--split", "train", "--archive", str(miniature.train), "--expect", "subset"]
    assert main([*command, "--out", str(tmp_path / "out"), "--other", str(numbered)]) == 2
    assert f"slimclr extract: error: {numbered}: its classes differ" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["right", "missing", "cut short"])
def test_an_extraction_needs_the_other_split_only_to_compare(miniature, tmp_path, other):
    path = tmp_path / "other.tar"
    if other != "missing":
        data = miniature.val.read_bytes()
        path.write_bytes(data if other == "right" else data[: len(data) // 2])
    options = {"devkit": miniature.devkit, "expect": "subset", "jobs": 1}
    extract("train", archive=miniature.train, out=tmp_path / "train", other=path, **options)
    extract("train", archive=miniature.train, out=tmp_path / "train", other=path, **(options | {"devkit": None}))
    path.write_bytes(b"x" * 1000)
    extract("val", archive=miniature.val, out=tmp_path / "val", other=path, **options)


def test_pretraining_does_not_begin_with_a_val_of_other_classes(val, numbered, tmp_path, capsys):
    train = tmp_path / "train.lmdb"
    write_lmdb(val, val / "manifest.parquet", train)
    recipe = json.dumps(RECIPE | {"method": {"name": "mocov2"}})
    command = ["pretrain", "--name", "r", "--recipe", recipe, "--data", str(train), "--val", str(numbered)]
    assert main([*command, "--out", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "checkpoints")]) == 2
    assert f"slimclr pretrain: error: {numbered}: its classes differ from those of {train}" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()
    check_data_sets(train, tmp_path / "none.lmdb")
    check_data_sets(train, val)
