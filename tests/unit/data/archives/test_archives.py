import io
import shutil
import subprocess
import sys
import tarfile

import pandas
import pyarrow.parquet
import pytest
from PIL import Image

from slimclr.data.archives import read_ground_truth
from slimclr.data.archives.extract import extract_train, extract_val
from slimclr.data.manifest import write_manifest
from slimclr.errors import UserError
from slimclr.files import sha256
from tests.helpers.tar_tools import SMALL, members, pack, tiny_photos


def _jpeg():
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, "JPEG")
    return file.getvalue()


def _png():
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, "PNG")
    return file.getvalue()


def _files(folder):
    """Content of the images, by key."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("[!.]*/*")}


def _train_content(archive):
    return {
        f"{info.name.removesuffix('.tar')}/{image.name}": photo
        for info, data in members(archive)
        for image, photo in members(data)
    }


def _set(archive, change):
    """Rewrite the (info, bytes) list of an archive."""
    entries = members(archive)
    change(entries)
    archive.write_bytes(pack(entries))


def _set_inner(archive, change):
    """The same in the first class archive."""

    def outer(entries):
        info, data = entries[0]
        inner = members(data)
        change(inner)
        entries[0] = (info, pack(inner))

    _set(archive, outer)


def _refuses(archive, out, pattern):
    before = archive.read_bytes() if archive.exists() else None
    with pytest.raises(UserError, match=pattern) as caught:
        extract_train(archive, out, expect="subset")
    assert "\n" not in str(caught.value)
    assert (archive.read_bytes() if archive.exists() else None) == before


def test_train_bytes_arrive_unchanged(miniature, tmp_path, capsys):
    before = sha256(miniature.train)
    records = extract_train(miniature.train, tmp_path / "train", expect="subset")
    content = _train_content(miniature.train)
    assert _files(tmp_path / "train") == content
    assert [record.key for record in records] == sorted(content)
    assert sha256(miniature.train) == before
    assert "extract train: 24 images" in capsys.readouterr().err


def test_val_images_go_to_the_class_that_the_devkit_says(miniature, tmp_path):
    import scipy.io

    records = extract_val(miniature.val, miniature.devkit, tmp_path / "val", expect="subset")
    devkit = {info.name.rsplit("/", 1)[-1]: data for info, data in members(miniature.devkit)}
    synsets = scipy.io.loadmat(io.BytesIO(devkit["meta.mat"]), squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): row["WNID"] for row in synsets}
    truth = [int(line) for line in devkit["ILSVRC2012_validation_ground_truth.txt"].split()]
    photos = [data for _, data in members(miniature.val)]
    assert sorted(wnids.values()) != [wnids[number] for number in sorted(wnids)]
    assert len(records) == len(truth) == SMALL["classes"] * SMALL["val_per_class"]
    for index, number in enumerate(truth):
        path = tmp_path / "val" / wnids[number] / f"ILSVRC2012_val_{index + 1:08d}.JPEG"
        assert path.read_bytes() == photos[index]


def test_manifest_states_what_is_there(extracted):
    table = pandas.read_parquet(extracted / "manifest.parquet")
    columns = ["key", "class", "label", "bytes", "width", "height", "mode", "format", "sha1"]
    assert table.columns.tolist() == columns
    assert table["key"].is_monotonic_increasing
    classes = sorted(table["class"].unique())
    for row in table.itertuples():
        path = extracted / row.key
        assert path.stat().st_size == row.bytes
        assert classes[row.label] == path.parent.name
        with Image.open(path) as image:
            assert (image.width, image.height, image.mode, image.format) == (row.width, row.height, "RGB", "JPEG")


def test_an_unusual_image_is_recorded_as_what_it_is(copy, tmp_path):
    file = io.BytesIO()
    Image.new("CMYK", (5, 7)).save(file, "JPEG")
    _set_inner(copy.train, lambda inner: inner.append(("n0_cmyk.JPEG", file.getvalue())))
    records = extract_train(copy.train, tmp_path / "train", expect="subset")
    (record,) = [record for record in records if record.key.endswith("cmyk.JPEG")]
    assert (record.width, record.height, record.mode, record.format) == (5, 7, "CMYK", "JPEG")


def test_an_interrupted_extraction_goes_on(miniature, tmp_path):
    out = tmp_path / "train"
    extract_train(miniature.train, out, expect="subset")
    first, second, *_ = sorted(out.glob("n*"))
    kept = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    # As if killed in the second class: half of it under the temporary name, with half a file.
    second.rename(out / f".{second.name}.part")
    half = sorted((out / f".{second.name}.part").iterdir())
    half[0].unlink()
    half[1].write_bytes(half[1].read_bytes()[:100])
    records = extract_train(miniature.train, out, expect="subset")
    assert _files(out) == _train_content(miniature.train)
    assert len(records) == len(_files(out))
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == kept


def test_a_killed_process_leaves_no_incomplete_class(miniature, tmp_path):
    out = tmp_path / "train"
    program = (
        "import os, pathlib, sys, slimclr.data.archives.extract as extract\n"
        "describe, count = extract.describe, []\n"
        "def stop(*arguments):\n"
        "    count.append(1)\n"
        "    return os._exit(9) if len(count) == 9 else describe(*arguments)\n"
        "extract.describe = stop\n"
        "extract.extract_train(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), expect='subset')\n"
    )
    assert subprocess.run([sys.executable, "-c", program, miniature.train, out], check=False).returncode == 9
    whole = [folder for folder in out.iterdir() if not folder.name.startswith(".")]
    assert [len(list(folder.iterdir())) for folder in whole] == [SMALL["train_per_class"]]
    extract_train(miniature.train, out, expect="subset")
    assert _files(out) == _train_content(miniature.train)


def test_val_goes_on_as_well(miniature, tmp_path):
    out = tmp_path / "val"
    extract_val(miniature.val, miniature.devkit, out, expect="subset")
    whole = _files(out)
    shutil.rmtree(sorted(out.glob("n*"))[1])
    (out / ".n1.part").mkdir()
    extract_val(miniature.val, miniature.devkit, out, expect="subset")
    assert _files(out) == whole


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_outer_archive(copy, tmp_path, share):
    data = copy.train.read_bytes()
    copy.train.write_bytes(data[: int(len(data) * share)])
    _refuses(copy.train, tmp_path / "train", f"{copy.train}: .*download it again")
    assert not list((tmp_path / "train").glob("manifest*"))


def test_outer_archive_cut_between_two_classes(copy, tmp_path):
    with tarfile.open(copy.train) as tar:
        end = tar.getmembers()[2].offset
    copy.train.write_bytes(copy.train.read_bytes()[:end])
    _refuses(copy.train, tmp_path / "train", f"{copy.train}: truncated .*its end is missing.*download it again")


def test_truncated_inner_archive(copy, tmp_path):
    def change(entries):
        entries[1] = (entries[1][0], entries[1][1][:5000])

    _set(copy.train, change)
    _refuses(copy.train, tmp_path / "train", f"{members(copy.train)[1][0].name}: truncated")


def test_empty_inner_archive(copy, tmp_path):
    _set(copy.train, lambda entries: entries.append(("n99999999.tar", pack([]))))
    _refuses(copy.train, tmp_path / "train", "n99999999.tar: holds no image")


def test_not_a_tar(copy, tmp_path):
    copy.train.write_bytes(b"<html>log in first</html>" * 100)
    _refuses(copy.train, tmp_path / "train", "not a tar archive")


def test_missing_archive(tmp_path):
    _refuses(tmp_path / "nothing.tar", tmp_path / "train", "nothing.tar: no such file; put")


@pytest.mark.parametrize("name", ["../evil.JPEG", "/tmp/evil.JPEG", "a/../../evil.JPEG"])
def test_members_that_leave_the_folder(copy, tmp_path, name):
    _set_inner(copy.train, lambda inner: inner.append((name, inner[0][1])))
    _refuses(copy.train, tmp_path / "deep" / "train", "leaves the target folder")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\nb.JPEG", "has a line break, or no text, in its name"),
        ("a\udcff.JPEG", "has a line break, or no text, in its name"),
        ("\x1b[31m.JPEG", "has a line break, or no text, in its name"),
        (".", "is a file without a name"),
        ("", "is a file without a name"),
    ],
)
def test_members_whose_names_are_none(copy, tmp_path, name, said):
    photo = next(tiny_photos(1))
    header = tarfile.TarInfo(name)
    header.size = len(photo)
    # Not by `pack`, which closes the archive; and as the class tar's first member, so that it is met while unpacking.
    member = header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + photo + bytes(-len(photo) % tarfile.BLOCKSIZE)
    copy.train.write_bytes(pack([("n00000001.tar", member + pack([("a.JPEG", photo)]))]))
    _refuses(copy.train, tmp_path / "train", said)
    copy.train.write_bytes(member + pack([("n00000001.tar", pack([("a.JPEG", photo)]))]))
    _refuses(copy.train, tmp_path / "train", said)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(copy, tmp_path, kind):
    info = tarfile.TarInfo("evil.JPEG")
    info.type, info.linkname = kind, "/etc/passwd"
    _set_inner(copy.train, lambda inner: inner.append((info, b"")))
    _refuses(copy.train, tmp_path / "train", "'evil.JPEG' is a link or a device")


def test_a_class_that_comes_twice(copy, tmp_path):
    _set(copy.train, lambda entries: entries.append(entries[0]))
    _refuses(copy.train, tmp_path / "train", "comes twice")


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (b"", "an empty file"),
        (b"no image" * 99, "not a readable image"),
        (_jpeg()[:-1], "cut short: its end is missing"),
        (_jpeg()[:300], "not readable"),
        (_png()[:-8], "cut short: its end is missing"),
    ],
)
def test_damaged_images(copy, tmp_path, data, pattern):
    _set_inner(copy.train, lambda inner: inner.append(("n0_bad.JPEG", data)))
    _refuses(
        copy.train, tmp_path / "train", rf"1 corrupt image\(s\) \(\S+/n0_bad.JPEG: {pattern}.*on_corrupt to 'skip'"
    )


def test_val_archive_given_as_train(miniature, tmp_path):
    _refuses(miniature.val, tmp_path / "train", "not a class archive <wnid>.tar; give the official")


def test_a_subset_is_not_the_official_archive(miniature, tmp_path):
    with pytest.raises(UserError, match=r"4 classes and 24 images instead of 1,000 and 1,281,167.*'subset'"):
        extract_train(miniature.train, tmp_path / "train", expect="ilsvrc2012")
    with pytest.raises(UserError, match="ground truth of 16 images instead of 50,000"):
        extract_val(miniature.val, miniature.devkit, tmp_path / "val", expect="ilsvrc2012")
    with pytest.raises(UserError, match="expect is 'all'"):
        extract_train(miniature.train, tmp_path / "train", expect="all")


def test_leftover_class_of_another_archive(miniature, tmp_path):
    (tmp_path / "train" / "n00000001").mkdir(parents=True)
    _refuses(miniature.train, tmp_path / "train", "n00000001: this class is not in the archive; remove")


def test_missing_val_image_is_named(copy, tmp_path):
    _set(copy.val, lambda entries: entries.pop(4))
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000005\.JPEG is missing \(15 images, .* 16\)"):
        extract_val(copy.val, copy.devkit, tmp_path / "val", expect="subset")
    assert not (tmp_path / "val").exists()


def test_surplus_val_image_is_named(copy, tmp_path):
    _set(copy.val, lambda entries: entries.append(("ILSVRC2012_val_00000017.JPEG", entries[0][1])))
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000017.JPEG' is not among the 16"):
        extract_val(copy.val, copy.devkit, tmp_path / "val", expect="subset")


def test_devkit_without_ground_truth(copy):
    copy.devkit.write_bytes(pack([("a.txt", b"a")]))
    with pytest.raises(UserError, match=r"no meta.mat in it"):
        read_ground_truth(copy.devkit)


def test_devkit_of_another_year(copy):
    entries = members(copy.devkit)
    for info, _ in entries:
        info.name = info.name.replace("ILSVRC2012_validation", "ILSVRC2010_validation")
    copy.devkit.write_bytes(pack(entries))
    line = "no ILSVRC2012_validation_ground_truth.txt in it; give the official ILSVRC2012_devkit_t12.tar.gz"
    with pytest.raises(UserError) as caught:
        read_ground_truth(copy.devkit)
    assert str(caught.value) == f"{copy.devkit}: {line}"


def test_ground_truth_that_names_an_inner_node(copy):
    entries = members(copy.devkit)
    (index,) = [i for i, (info, _) in enumerate(entries) if info.name.endswith(".txt")]
    entries[index] = (entries[index][0], entries[index][1] + b"5\n")
    copy.devkit.write_bytes(pack(entries))
    with pytest.raises(UserError, match=r"line 17 .* names class 5, which meta.mat lacks"):
        read_ground_truth(copy.devkit)


def test_manifest_is_whole_or_absent(extracted, tmp_path, monkeypatch):
    def fail(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write_manifest(extract_train(*_first(extracted, tmp_path), expect="subset"), tmp_path / "manifest.parquet")
    assert not list(tmp_path.glob("manifest*"))


def _first(extracted, tmp_path):
    """An archive of one class, and where to put it."""
    photos = [(path.name, path.read_bytes()) for path in sorted(next(iter(sorted(extracted.glob("n*")))).iterdir())]
    (tmp_path / "one.tar").write_bytes(pack([("n1.tar", pack(photos))]))
    return tmp_path / "one.tar", tmp_path / "train"
