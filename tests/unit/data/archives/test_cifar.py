"""CIFAR-10 against torchvision's reader, on made-up batches in exactly the form that Python 2 wrote."""

import io
import os
import pickle
import re
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from slimclr.cli import main
from slimclr.data.archives.cifar import BATCHES, CLASSES, write_cifar
from slimclr.data.images.decode import decode_rgb
from slimclr.data.stores import open_images

ROWS = 12


class Python2Pickler(pickle._Pickler):
    """Strings of either kind become Python 2's `str`, as in the official files."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2(value):
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """`cifar-10-batches-py/` with a few images per batch; the first batch has every class."""
    root = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-py"
    root.mkdir()
    draw = np.random.default_rng(0)
    for name in BATCHES:
        labels = [*range(10), *draw.integers(0, 10, ROWS - 10).tolist()]
        data = draw.integers(0, 256, (ROWS, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": labels, "batch_label": name, "filenames": ["a.png"] * ROWS}
        (root / name).write_bytes(python2(batch))
    (root / "batches.meta").write_bytes(python2({"label_names": list(CLASSES), "num_vis": 3072}))
    (root / "readme.html").write_text("<html>")
    return root


@pytest.fixture
def packed(batches, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(batches, batches.name)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """`train/<class>/` and `test/<class>/` with JPEGs."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(1)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("bird", "airplane", "cat"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:04d}.jpg")
    (root / "train/.DS_Store").write_text("junk")
    return root


class AnyCifar10(CIFAR10):
    """Without the published files' MD5."""

    def _check_integrity(self):
        return True

    def _load_meta(self):
        self.classes = list(CLASSES)


def contents(root):
    """Label and bytes by split and key."""
    databases = {split: open_images(root / f"{split}.lmdb") for split in ("train", "val")}
    return {
        (split, key): (int(images.labels[index]), images.read(index))
        for split, images in databases.items()
        for index, key in enumerate(images.keys)
    }


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_batches_as_torchvision_reads_them(form, batches, packed, tmp_path, capsys):
    write_cifar(batches.parent if form == "folder" else packed, tmp_path / "out")
    assert capsys.readouterr().err.count("is not the published file") == 6
    found = contents(tmp_path / "out")
    assert len(found) == 6 * ROWS
    for split in ("train", "val"):
        assert open_images(tmp_path / f"out/{split}.lmdb").classes == list(CLASSES) == sorted(CLASSES)
        reference = AnyCifar10(batches.parent, train=split == "train")
        for index, (image, label) in enumerate(reference):
            batch = f"data_batch_{index // ROWS + 1}" if split == "train" else "test_batch"
            key = f"{CLASSES[label]}/{batch}_{index % ROWS:05d}.png"
            ours, data = found.pop((split, key))
            assert ours == label
            assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(image))
    assert not found
    assert sorted(name for name in os.listdir(tmp_path / "out") if name[0] != ".") == ["train.lmdb", "val.lmdb"]
    assert not (tmp_path / "out/.cifar.part").exists()


def test_published_sums_are_torchvisions():
    assert list(BATCHES.items()) == [tuple(row) for row in CIFAR10.train_list + CIFAR10.test_list]


@pytest.mark.parametrize("form", ["folder", "tar", "tar.xz", "zip"])
def test_images_keep_their_bytes(form, photos, tmp_path):
    source = photos if form == "folder" else tmp_path / f"photos.{form}"
    if form.startswith("tar"):
        with tarfile.open(source, "w:xz" if form == "tar.xz" else "w") as tar:
            tar.add(photos, "cifar")
    if form == "zip":
        shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    assert main(["cifar", "--source", str(source), "--out", str(tmp_path / "out")]) == 0
    classes = ["airplane", "bird", "cat"]
    assert contents(tmp_path / "out") == {
        (split, f"{path.parent.name}/{path.name}"): (classes.index(path.parent.name), path.read_bytes())
        for split, name in (("train", "train"), ("val", "test"))
        for path in photos.glob(f"{name}/*/*.jpg")
    }
    assert open_images(tmp_path / "out/val.lmdb").classes == classes


def refused(source, tmp_path, capsys):
    """The one line that is said; nothing is left."""
    assert main(["cifar", "--source", str(source), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["gz", "xz", "zip"])
def test_truncated_archive(kind, share, packed, photos, tmp_path, capsys):
    source = packed
    if kind == "xz":
        source = tmp_path / "photos.tar.xz"
        with tarfile.open(source, "w:xz") as tar:
            tar.add(photos, "cifar")
    if kind == "zip":
        source = tmp_path / "photos.zip"
        shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    what = "damaged or encrypted zip archive" if kind == "zip" and share else "truncated or not a tar archive"
    assert f"{source}: {what}" in refused(source, tmp_path, capsys)


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_damaged_archive(kind, packed, photos, tmp_path, capsys):
    source = packed
    if kind == "zip":
        source = tmp_path / "photos.zip"
        shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    source.write_bytes(data)
    assert str(source) in refused(source, tmp_path, capsys)


def entry(name, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../x", tarfile.REGTYPE, "member '../x' leaves the target folder"),
        ("train/a/../../../x.jpg", tarfile.REGTYPE, "leaves the target folder"),
        ("/x.jpg", tarfile.REGTYPE, "leaves the target folder"),
        ("train/a/x.jpg", tarfile.SYMTYPE, "is a link or a device"),
        ("train/a/x.jpg", tarfile.LNKTYPE, "is a link or a device"),
        ("train/a/x.jpg", tarfile.CHRTYPE, "is a link or a device"),
    ],
)
def test_unsafe_member(name, kind, message, tmp_path, capsys):
    source = tmp_path / "bad.tar"
    with tarfile.open(source, "w") as tar:
        tar.addfile(entry(name, kind))
    assert message in refused(source, tmp_path, capsys)
    assert not (tmp_path.parent / "x").exists()


def test_unsafe_member_of_a_zip(tmp_path, capsys):
    for name, mode, message in (("../x", 0o644, "leaves the target"), ("train/a/x.jpg", 0o120777, "is a link")):
        source = tmp_path / "bad.zip"
        with zipfile.ZipFile(source, "w") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, b"data")
        assert message in refused(source, tmp_path, capsys)


class Runs:
    """Makes a file when it is unpickled the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: pickle.dumps({"data": Runs(path)}), r"it asks for \w+.mkdir, which is not run"),
        (lambda path: pickle.dumps(np.array([Runs(path)], dtype=object), 2), "it asks for .*, which is not run"),
        (lambda path: b"", "not a readable batch"),
        (lambda path: b"hello", "not a readable batch"),
        (lambda path: python2([1, 2]), "no batch of CIFAR-10"),
        (lambda path: python2({"data": 1, "labels": [1]}), "no batch of CIFAR-10"),
        (lambda path: python2({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "no batch of CIFAR-10"),
        (lambda path: python2({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}), "no batch of CIFAR-10"),
        (lambda path: python2({"data": np.zeros((1, 3072), np.float32), "labels": [1]}), "no batch of CIFAR-10"),
    ],
)
def test_bad_batch(content, message, batches, tmp_path, capsys):
    source, ran = tmp_path / "source", tmp_path / "ran"
    shutil.copytree(batches, source)
    (source / "data_batch_2").write_bytes(content(ran))
    line = refused(source, tmp_path, capsys)
    assert re.search(f"{source}: data_batch_2: .*{message}", line)
    assert not ran.exists()


def test_batch_cut_short_and_missing_batch(batches, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(batches, source)
    (source / "data_batch_3").write_bytes((batches / "data_batch_3").read_bytes()[:-100])
    assert "data_batch_3: not a readable batch" in refused(source, tmp_path, capsys)
    (source / "data_batch_3").unlink()
    assert "data_batch_3 is missing" in refused(source, tmp_path, capsys)


def test_bad_images(photos, batches, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(photos, source)
    photo = source / "test/cat/0001.jpg"
    data = photo.read_bytes()
    photo.write_bytes(b"")
    assert "cat/0001.jpg: an empty file instead of an image" in refused(source, tmp_path, capsys)
    photo.write_text("hello")
    assert "cat/0001.jpg: not a readable image" in refused(source, tmp_path, capsys)
    photo.write_bytes(data)
    shutil.copytree(source / "train", source / "again/train")
    assert "comes twice" in refused(source, tmp_path, capsys)
    shutil.rmtree(source / "again")
    shutil.rmtree(source / "test/cat")
    assert "class cat is not in both train and test" in refused(source, tmp_path, capsys)
    shutil.rmtree(source / "test")
    assert "not both train and test" in refused(source, tmp_path, capsys)
    shutil.copytree(batches, source / "batches")
    assert "both batches and images" in refused(source, tmp_path, capsys)
    assert "no such file or folder" in refused(tmp_path / "none", tmp_path, capsys)
