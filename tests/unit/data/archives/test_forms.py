"""The forms in which people have ImageNet: each gives the data set that the official archives give."""

import bz2
import gzip
import io
import json
import lzma
import re
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from slimclr.data.archives import read_classes, val_sources
from slimclr.data.archives.extract import extract_train, extract_val
from slimclr.errors import UserError
from slimclr.stages.data import extract
from tests.helpers.tar_tools import lmdb_content, members, pack

APPLE = b"\x00\x05\x16\x07" + bytes(100)


@pytest.fixture(scope="module")
def usual(miniature, tmp_path_factory):
    """What the official archives give, in folders and in databases."""
    root = tmp_path_factory.mktemp("usual")
    for split, archive in (("train", miniature.train), ("val", miniature.val)):
        options = {"archive": archive, "devkit": miniature.devkit, "expect": "subset"}
        extract(split, **options, out=root / split)
        extract(split, **options, out=root / "straight" / split, lmdb=root / f"{split}.lmdb")
    return root


def _gives_the_usual(usual, tmp_path, split, archive, devkit=None, hidden=0):
    """The same manifest and images by both ways, the same report but for hidden entries."""
    options = {"archive": archive, "devkit": devkit, "expect": "subset"}
    extract(split, **options, out=tmp_path / "folders")
    extract(split, **options, out=tmp_path / "straight", lmdb=tmp_path / "some.lmdb", jobs=2)
    for way in ("folders", "straight"):
        assert (tmp_path / way / "manifest.parquet").read_bytes() == (usual / split / "manifest.parquet").read_bytes()
        report = json.loads((usual / split / "data_report.json").read_text())
        assert json.loads((tmp_path / way / "data_report.json").read_text()) == report | {"hidden": hidden}
    assert lmdb_content(tmp_path / "some.lmdb") == lmdb_content(usual / f"{split}.lmdb")


def _images(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("n*/*"))}


def _solution(usual):
    """Kaggle's list: an image with one box, or with two."""
    keys = [key.split("/") for key in _images(usual / "val")]
    lines = [
        f"{name.removesuffix('.JPEG')},{(wnid + ' 1 2 30 40 ') * (1 + index % 2)}"
        for index, (wnid, name) in enumerate(keys)
    ]
    return "ImageId,PredictionString\n" + "\n".join(lines) + "\n"


def _kaggle(usual):
    """Names and content of Kaggle's archive, as far as they matter, in its layout."""
    base = "ILSVRC/Data/CLS-LOC"
    train = {f"{base}/train/{key}": data for key, data in _images(usual / "train").items()}
    val = {f"{base}/val/{key.split('/')[1]}": data for key, data in _images(usual / "val").items()}
    others = {
        "ILSVRC/Annotations/CLS-LOC/train/n00000001/n00000001_1.xml": b"<annotation/>",
        "ILSVRC/ImageSets/CLS-LOC/train_cls.txt": b"n00000001/n00000001_1 1\n",
        f"{base}/test/ILSVRC2012_test_00000001.JPEG": b"a test image",
        "LOC_val_solution.csv": _solution(usual).encode(),
        "LOC_synset_mapping.txt": b"n00000001 a fish\n",
    }
    return others | train | val


@pytest.fixture(scope="module")
def kaggle(usual, tmp_path_factory):
    root = tmp_path_factory.mktemp("kaggle")
    content = _kaggle(usual)
    with zipfile.ZipFile(root / "imagenet-object-localization-challenge.zip", "w") as file:
        for index, (name, data) in enumerate(content.items()):
            file.writestr(name, data, zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED)
    for name, data in content.items():
        (root / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "unpacked" / name).write_bytes(data)
    return SimpleNamespace(
        zip=root / "imagenet-object-localization-challenge.zip", folder=root / "unpacked", content=content
    )


def _class_tars(path):
    return [(info.name, data) for info, data in members(path)]


def _write(path, entries, **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _folder(usual, miniature, root):
    for key, data in _images(usual / "train").items():
        (root / "train" / key).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / key).write_bytes(data)
    (root / "train/.DS_Store").write_bytes(b"x")
    (next((root / "train").glob("n*")) / "._a.JPEG").write_bytes(APPLE)
    (next((root / "train").glob("n*")) / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 9)
    return root / "train", 3


def _folder_of_class_tars(usual, miniature, root):
    for index, (name, data) in enumerate(_class_tars(miniature.train)):
        (root / name).write_bytes(data if index else gzip.compress(data))
    return root, 0


def _tar_of_folders(usual, miniature, root):
    entries = [(f"./train/{key}", data) for key, data in _images(usual / "train").items()]
    return _write(root / "train.tar", [(".DS_Store", b"x"), *entries]), 1


def _compressed_class_tars(usual, miniature, root):
    how = [(".gz", gzip.compress), ("", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
    tars = zip(_class_tars(miniature.train), how, strict=True)
    return _write(root / "a.tar", [(name + suffix, pack_with(data)) for (name, data), (suffix, pack_with) in tars]), 0


def _macos(usual, miniature, root):
    """What tar on macOS makes, with PAX headers: a companion of every file, outside and inside."""
    entries = []
    for name, data in _class_tars(miniature.train):
        photos = [(info.name, photo) for info, photo in members(data)]
        inner = pack([entry for photo, content in photos for entry in ((f"._{photo}", APPLE), (photo, content))])
        entries += [(f"./._{name}", APPLE), (f"./{name}", inner)]
    count = len(_images(usual / "train")) + len(entries) // 2
    return _write(root / "a.tar", entries, format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}), count


@pytest.mark.parametrize(
    "form",
    [_folder, _folder_of_class_tars, _tar_of_folders, _compressed_class_tars, _macos],
    ids=lambda form: form.__name__,
)
def test_train(form, usual, miniature, tmp_path):
    (tmp_path / "raw").mkdir()
    archive, hidden = form(usual, miniature, tmp_path / "raw")
    _gives_the_usual(usual, tmp_path, "train", archive, hidden=hidden)


@pytest.mark.parametrize("packed", [True, False])
def test_kaggle(packed, usual, kaggle, tmp_path):
    archive = kaggle.zip if packed else kaggle.folder
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        _gives_the_usual(usual, tmp_path / split, split, archive, archive)


@pytest.mark.parametrize("pack_with", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_compressed_class_tars(pack_with, miniature, tmp_path):
    name, data = _class_tars(miniature.train)[0]
    packed = pack_with(data)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    for damaged in (packed[: len(packed) // 2], bytes(flipped)):
        archive = _write(tmp_path / "a.tar", [(name, damaged)])
        with pytest.raises(UserError, match=f"a.tar: {name}: (truncated|damaged) .*download") as caught:
            extract_train(archive, tmp_path / "out", expect="subset")
        assert "\n" not in str(caught.value)


def test_an_interrupted_extraction_of_a_zip_goes_on(usual, kaggle, tmp_path):
    out = tmp_path / "train"
    extract_train(kaggle.zip, out, expect="subset")
    first, second, *_ = sorted(out.glob("n*"))
    kept = first.stat().st_ino
    second.rename(out / f".{second.name}.part")
    extract_train(kaggle.zip, out, expect="subset")
    assert _images(out) == _images(usual / "train")
    assert first.stat().st_ino == kept


def test_flat_val_folder_and_lists(usual, miniature, kaggle, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for key, data in _images(usual / "val").items():
        (flat / key.split("/")[1]).write_bytes(data)
    (flat / "._ILSVRC2012_val_00000001.JPEG").write_bytes(APPLE)
    _gives_the_usual(usual, tmp_path, "val", flat, miniature.devkit, hidden=1)
    wanted = read_classes(miniature.devkit)
    solution, lines, devkit = tmp_path / "solution.csv", tmp_path / "classes.txt", tmp_path / "devkit"
    solution.write_text(_solution(usual), encoding="utf-8-sig")
    lines.write_text("".join(f"{name} {wnid}\r\n" for name, wnid in wanted.items()), encoding="utf-8-sig")
    shutil.unpack_archive(miniature.devkit, devkit)
    assert read_classes(solution) == read_classes(lines) == read_classes(devkit) == wanted
    assert read_classes(kaggle.folder) == read_classes(kaggle.zip) == wanted
    with pytest.raises(UserError, match="classes of its images are missing; give the devkit, Kaggle's LOC_val_sol"):
        val_sources(flat, None, expect="subset")


def test_hidden_entries_of_the_val_archive(usual, miniature, tmp_path):
    entries = [(info.name, data) for info, data in members(miniature.val)]
    companions = [(f"._{name}", APPLE) for name, _ in entries]
    archive = _write(tmp_path / "val.tar", [*companions, *entries])
    _gives_the_usual(usual, tmp_path, "val", archive, miniature.devkit, hidden=len(entries))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (gzip.compress, "gzip-compressed, so .*; run 'gunzip my.tar' first"),
        (bz2.compress, "bzip2-compressed, so .*; run 'bunzip2 my.tar' first"),
        (lzma.compress, "xz-compressed, so .*; run 'unxz my.tar' first"),
        (lambda tar: b"\x28\xb5\x2f\xfd" + tar, "zstd-compressed; run 'unzstd my.tar'"),
        (lambda tar: b"7z\xbc\xaf\x27\x1c" + tar, "a 7z archive, not a tar; unpack it and give the folder"),
        (lambda tar: b"Rar!\x1a\x07\x01\x00" + tar, "a rar archive, not a tar; unpack it and give the folder"),
        (lambda tar: b"\xef\xbb\xbf\n<!DOCTYPE html><p>Log in", "a web page, not a tar archive: .* logged in"),
        (lambda tar: b"\xff\xd8\xff\xe0" + tar, "a JPEG image, not a tar archive"),
        (lambda tar: b"d8:announce35:udp", "a torrent file, not what it stands for; download the archive itself"),
        (lambda tar: b"PK\3\4" + tar, "truncated or damaged zip archive .*download it again"),
    ],
)
def test_what_is_not_supported_is_named(make, line, miniature, tmp_path):
    archive = tmp_path / "my.tar"
    archive.write_bytes(make(miniature.train.read_bytes()))
    for split in (extract_train, lambda *args, **options: extract_val(args[0], miniature.devkit, args[1], **options)):
        with pytest.raises(UserError, match=f"^{re.escape(str(archive))}: {line}") as caught:
            split(archive, tmp_path / "out", expect="subset")
        assert "truncated or not a tar" not in str(caught.value)
    inner = _write(tmp_path / "outer.tar", [("n00000001.tar", b"Rar!\x1a\x07\x01\x00" + bytes(600))])
    with pytest.raises(UserError, match=r"outer.tar: n00000001.tar: a rar archive, not a tar"):
        extract_train(inner, tmp_path / "out", expect="subset")


def test_archives_joined_with_cat_do_not_lose_a_half(miniature, tmp_path):
    archive = tmp_path / "both.tar"
    tars = _class_tars(miniature.train)
    archive.write_bytes(pack(tars[:2]) + pack(tars[2:]))
    with pytest.raises(UserError, match="another archive begins behind its end"):
        extract_train(archive, tmp_path / "out", expect="subset")
    archive.write_bytes(pack(tars) + bytes(1 << 20))
    assert len(extract_train(archive, tmp_path / "out", expect="subset").wnids) == len(tars)


def _zip(path, content):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["train/n1/a.JPEG", "val/n1/b.JPEG"], "holds class folders in 'train' and in 'val'; give an archive"),
        (["n1.tar"], "holds the archive 'n1.tar'; unpack the zip and give the folder"),
        (["../n1/a.JPEG"], "member '../n1/a.JPEG' leaves the target folder"),
        (["a.JPEG"], "member 'a.JPEG' is not a class archive"),
        (["LOC_val_solution.csv"], "holds no class archive and no class folder; give a tar of one"),
    ],
)
def test_zips_of_another_layout(names, line, tmp_path):
    archive = _zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))
    with pytest.raises(UserError, match=f"a.zip: {line}"):
        extract_train(archive, tmp_path / "out", expect="subset")


@pytest.mark.parametrize(("name", "said"), [("", "is a file without a name"), (".", "is a file without a name")])
def test_a_zips_member_without_a_name(name, said, tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("@" * len(name) or "@", b"x")
    content = (tmp_path / "train.zip").read_bytes()
    # Python writes no member without a name: its length is taken away in both of its headers.
    if not name:
        at = content.index(b"PK\1\2")
        content = content[:26] + bytes(2) + content[28:30] + content[31:at] + content[at:]
        at -= 1
        content = content[: at + 28] + bytes(2) + content[at + 30 : at + 46] + content[at + 47 :]
        end = content.index(b"PK\5\6")
        size, offset = (end - at).to_bytes(4, "little"), at.to_bytes(4, "little")
        content = content[: end + 12] + size + offset + content[end + 20 :]
    (tmp_path / "train.zip").write_bytes(content.replace(b"@", name.encode() or b"@"))
    with pytest.raises(UserError, match=said):
        extract_train(tmp_path / "train.zip", tmp_path / "out", expect="subset")


def test_a_damaged_zip(usual, kaggle, miniature, tmp_path):
    data = bytearray(kaggle.zip.read_bytes())
    photo = next(iter(_images(usual / "train").values()))
    with zipfile.ZipFile(kaggle.zip) as file:
        info = next(info for info in file.infolist() if info.file_size == len(photo) and file.read(info) == photo)
    data[info.header_offset + info.compress_size // 2] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"a.zip: \S+: damaged, its CRC differs; download"):
        extract_train(tmp_path / "a.zip", tmp_path / "out", expect="subset")
    with pytest.raises(UserError, match=r"no LOC_val_solution.csv in it; give Kaggle's zip, that file, or the devkit"):
        extract_val(miniature.val, _zip(tmp_path / "b.zip", {"a": b""}), tmp_path / "out", expect="subset")
    with pytest.raises(UserError, match="ImageNet published the MD5 of its tars only"):
        extract("train", archive=kaggle.zip, devkit=None, expect="subset", out=tmp_path, official_md5=True)


def test_folders_with_mistakes(usual, miniature, tmp_path):
    name, data = _class_tars(miniature.train)[0]
    wnid = name.removesuffix(".tar")
    (tmp_path / "train" / wnid).mkdir(parents=True)
    (tmp_path / "train" / wnid / "a.JPEG").write_bytes(b"half unpacked")
    (tmp_path / "train" / name).write_bytes(data)
    with pytest.raises(UserError, match=f"class {wnid} comes twice, as {name} too; remove the one that is not whole"):
        extract_train(tmp_path / "train", tmp_path / "out", expect="subset")
    (tmp_path / "train" / name).unlink()
    with pytest.raises(UserError, match=f"{tmp_path}: no class folders with images.*; give {tmp_path}/train$"):
        extract_train(tmp_path, tmp_path / "out", expect="subset")
