import re

import pandas
import pytest

from slimclr.cli import main
from slimclr.data.stores.convert import write_lmdb


@pytest.fixture
def database(extracted, tmp_path):
    write_lmdb(extracted, extracted / "manifest.parquet", tmp_path / "train.lmdb")
    return tmp_path / "train.lmdb"


def _change(database, name, change):
    import lmdb

    with (
        lmdb.open(str(database), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(name, change(transaction.get(name)))


def _verify(capsys, *arguments):
    """Exit code and the one line that was printed, apart from the progress."""
    code = main(["verify", *map(str, arguments)])
    captured = capsys.readouterr()
    lines = [line for line in (captured.out + captured.err).splitlines() if not line.startswith("verify ")]
    assert len(lines) == 1
    return code, lines[0]


@pytest.mark.parametrize("content", [[], ["--content"]])
def test_whole_data_sets(database, extracted, capsys, content):
    manifest = extracted / "manifest.parquet"
    for arguments in ([database], [database, "--manifest", manifest], [extracted]):
        code, line = _verify(capsys, *arguments, *content)
        assert code == 0
        assert "24 images in 4 classes; keys, labels" in line


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        (b"labels", lambda data: data[8:] + data[:8], "the labels are not those of the database's own tables"),
        (b"sizes", lambda data: data[8:] + data[:8], "keys, sizes or sums were changed"),
        (b"sums", lambda data: bytes(len(data)), "keys, sizes or sums were changed"),
        (b"keys", lambda data: data.replace(b"_1.", b"_9."), "keys, sizes or sums were changed"),
        (b"sizes", lambda data: data[8:], "sizes, sums and count differ"),
        (b"00000003", lambda data: data[1:], "bytes instead of"),
    ],
)
def test_databases_that_contradict_themselves(database, capsys, name, change, line):
    _change(database, name, change)
    code, printed = _verify(capsys, database)
    assert code == 2
    assert line in printed


def test_changed_content_is_found_by_reading_it(database, extracted, tmp_path, capsys):
    _change(database, b"00000003", lambda data: data[:-1] + b"!")
    assert _verify(capsys, database)[0] == 0
    code, line = _verify(capsys, database, "--content")
    assert (code, "has other content (SHA-1" in line) == (2, True)


def test_a_database_truncated_by_a_byte(database, capsys):
    data = database.read_bytes()
    database.write_bytes(data[:-1])
    code, line = _verify(capsys, database)
    assert (code, "truncated (" in line) == (2, True)


def test_another_manifest(database, extracted, tmp_path, capsys):
    table = pandas.read_parquet(extracted / "manifest.parquet")
    for change, line in (
        (table[:-1], "24 images, .* names 23"),
        (table.assign(key=table["key"].str.replace("n", "m")), "has n.* where .* names m"),
        (table.assign(label=table["label"] + 1), "the labels are not those of"),
        (table.assign(bytes=table["bytes"] + 1), "and 21 more"),
        (table.assign(sha1="x"), "label, size or SHA-1 of n.*; run the extract stage again"),
        (table.assign(sha1=None), "label, size or SHA-1 of n.*; run the extract stage again"),
        (table.assign(key="../etc/passwd"), "no readable manifest .'../etc/passwd' is no <class>/<image>."),
        (table.assign(key="n1/a\0b"), "no readable manifest .'n1/a.x00b' is no <class>/<image>."),
        (table.assign(key=None), "no readable manifest .None is no <class>/<image>."),
        (table.drop(columns="sha1"), "no readable manifest .a column is missing."),
    ):
        change.to_parquet(tmp_path / "other.parquet")
        code, printed = _verify(capsys, database, "--manifest", tmp_path / "other.parquet")
        assert code == 2
        assert re.search(line, printed)


def test_a_folder_with_a_damaged_image(miniature, tmp_path, capsys):
    from slimclr.stages.data import extract

    extract("train", archive=miniature.train, devkit=None, expect="subset", out=tmp_path)
    capsys.readouterr()
    photo = next(tmp_path.glob("n*/*"))
    photo.write_bytes(bytes(photo.stat().st_size))
    assert _verify(capsys, tmp_path)[0] == 0
    assert "has other content" in _verify(capsys, tmp_path, "--content")[1]
    photo.unlink()
    assert "23 images" in _verify(capsys, tmp_path)[1]
