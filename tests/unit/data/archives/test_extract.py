"""The extract stage as a whole: ways in and out, resumption, what it reports and what it refuses."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from slimclr.cli import main
from slimclr.data.archives import extract as extract_module
from slimclr.data.archives.extract import extract_train, extract_val
from slimclr.data.archives.records import ClassRecord, Records
from slimclr.data.stores import convert as convert_module
from slimclr.data.stores import lmdb_writer as lmdb_module
from slimclr.data.stores.convert import write_lmdb
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages, part_path
from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.stages.data import convert, extract
from tests.helpers.tar_tools import SMALL, lmdb_content, members, pack, tiny_archive

COUNT = SMALL["classes"] * SMALL["train_per_class"]


def _state(out):
    """Everything in a folder, hidden or not; sums, because pytest takes minutes to show how images differ."""
    return {str(path.relative_to(out)): sha256(path) for path in out.rglob("*") if path.is_file()}


def _photo(mode="RGB", kind="JPEG", **options):
    file = io.BytesIO()
    Image.new(mode, (6, 4)).save(file, kind, **options)
    return file.getvalue()


def _add_to_first_class(archive, photos):
    entries = members(archive)
    entries[0] = (entries[0][0], pack(members(entries[0][1]) + list(photos.items())))
    archive.write_bytes(pack(entries))
    return entries[0][0].name.removesuffix(".tar")


@pytest.fixture(scope="module")
def twenty_classes(tmp_path_factory):
    path = tmp_path_factory.mktemp("twenty") / "ILSVRC2012_img_train.tar"
    tiny_archive(path, classes=20, per_class=100)
    return path


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_straight_way_gives_what_the_way_through_folders_gives(miniature, tmp_path, jobs):
    for split, archive in (("train", miniature.train), ("val", miniature.val)):
        options = {"archive": archive, "devkit": miniature.devkit, "expect": "subset", "jobs": jobs}
        extract(split, **options, out=tmp_path / "folders" / split)
        convert(folder=tmp_path / "folders" / split, out=tmp_path / "folders" / f"{split}.lmdb")
        extract(split, **options, out=tmp_path / "straight" / split, lmdb=tmp_path / "straight" / f"{split}.lmdb")
        folders, straight = tmp_path / "folders" / split, tmp_path / "straight" / split
        assert sorted(path.name for path in straight.iterdir()) == ["data_report.json", "manifest.parquet"]
        for name in ("data_report.json", "manifest.parquet"):
            assert (folders / name).read_bytes() == (straight / name).read_bytes()
        content = lmdb_content(tmp_path / "straight" / f"{split}.lmdb")
        assert content == lmdb_content(tmp_path / "folders" / f"{split}.lmdb")
        images, expected = LMDBImages(tmp_path / "straight" / f"{split}.lmdb"), FolderImages(folders)
        assert images.keys == expected.keys
        assert images.labels.tolist() == expected.labels.tolist()
        assert sorted(os.listdir(folders)) == ["data_report.json", "manifest.parquet", *expected.classes]
    assert sorted(os.listdir(tmp_path / "straight")) == ["train", "train.lmdb", "val", "val.lmdb"]


def test_finished_classes_are_not_written_again_and_changed_ones_are(miniature, tmp_path):
    out = tmp_path / "train"
    extract_train(miniature.train, out, expect="subset")
    whole = _state(out)
    first, second, third, fourth = sorted(out.glob("n*"))
    next(second.iterdir()).write_bytes(b"short")
    (out / ".records" / f"{third.name}.json").write_text('{"half')
    (out / ".records" / f"{third.name}.part1").write_text("left by a kill")
    # Another boot: contents are compared. The same size with other bytes must not pass.
    record = out / ".records" / f"{fourth.name}.json"
    text = json.loads(record.read_text())
    record.write_text(json.dumps(text | {"boot": "another"}))
    photo = next(fourth.iterdir())
    photo.write_bytes(bytes(photo.stat().st_size))
    kept = {path: path.stat().st_ino for path in (first, second, third, fourth)}
    extract_train(miniature.train, out, expect="subset")
    assert _state(out) == whole
    assert [path.stat().st_ino == inode for path, inode in kept.items()] == [True, False, False, False]


def test_another_archive_is_extracted_anew(copy, tmp_path):
    out = tmp_path / "train"
    extract_train(copy.train, out, expect="subset")
    wnid = _add_to_first_class(copy.train, {"n0_new.JPEG": _photo()})
    assert len(extract_train(copy.train, out, expect="subset")) == COUNT + 1
    assert (out / wnid / "n0_new.JPEG").exists()


@pytest.mark.parametrize("straight", [False, True])
def test_corrupt_images_are_listed_or_left_out(copy, tmp_path, capsys, straight):
    bad = {f"n0_{number}.JPEG": b"text" * 9 for number in range(25)}
    wnid = _add_to_first_class(copy.train, bad | {"n0_0byte.JPEG": b""})
    out, lmdb = tmp_path / "train", tmp_path / "train.lmdb" if straight else None
    options = {"archive": copy.train, "devkit": None, "expect": "subset", "out": out, "lmdb": lmdb}
    with pytest.raises(UserError, match=r"26 corrupt image\(s\) \(.*, and 6 more\), all of them in .*; down") as caught:
        extract("train", **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("not a readable image") == 19
    assert f"all of them in {out}/corrupt_images.json; download" in str(caught.value)
    listed = json.loads((out / "corrupt_images.json").read_text())
    assert {entry["key"] for entry in listed["files"]} == {f"{wnid}/{name}" for name in (*bad, "n0_0byte.JPEG")}
    # What Snakemake would take for a finished stage.
    assert not any((out / name).exists() for name in ("manifest.parquet", "data_report.json"))
    assert not (tmp_path / "train.lmdb").exists()
    extract("train", **options, on_corrupt="skip")
    assert f"{COUNT:,} images in 4 classes" in capsys.readouterr().out
    assert not (out / "corrupt_images.json").exists()
    report = json.loads((out / "data_report.json").read_text())
    assert report["corrupt"] == {"count": listed["count"], "files": listed["files"]}
    assert {"key": f"{wnid}/n0_0byte.JPEG", "reason": "an empty file"} in listed["files"]
    assert len(pandas.read_parquet(out / "manifest.parquet")) == COUNT
    assert len(LMDBImages(lmdb) if straight else FolderImages(out)) == COUNT


def test_decoding_finds_what_the_structure_does_not_show(copy, tmp_path):
    photo = bytearray(_photo(kind="PNG"))
    photo[photo.index(b"IDAT") + 6] ^= 0xFF
    wnid = _add_to_first_class(copy.train, {"n0_bad.JPEG": bytes(photo)})
    extract_train(copy.train, tmp_path / "a", expect="subset")
    with pytest.raises(UserError, match=rf"1 corrupt image\(s\) \({wnid}/n0_bad.JPEG: not readable"):
        extract_train(copy.train, tmp_path / "a", expect="subset", check_images="decode")
    with pytest.raises(UserError, match="check_images is 'all'; set it to one of structure, decode"):
        extract_train(copy.train, tmp_path / "a", expect="subset", check_images="all")


def test_the_report_lists_oddities(copy, tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    odd = {
        "n0_cmyk.JPEG": _photo("CMYK"),
        "n0_grey.JPEG": _photo("L"),
        "n0_png.JPEG": _photo(kind="PNG"),
        "n0_rotated.JPEG": _photo(exif=rotated),
        "n0_twice.JPEG": _photo("L"),
    }
    wnid = _add_to_first_class(copy.train, odd)
    extract("train", archive=copy.train, devkit=None, expect="subset", out=tmp_path / "train")
    report = json.loads((tmp_path / "train" / "data_report.json").read_text())
    key = f"{wnid}/n0_"
    assert (report["images"], report["classes"]) == (COUNT + 5, 4)
    assert report["cmyk"] == {"count": 1, "files": [f"{key}cmyk.JPEG"]}
    assert report["grey"] == {"count": 2, "files": [f"{key}grey.JPEG", f"{key}twice.JPEG"]}
    assert report["format_mismatch"] == {"count": 1, "files": [{"key": f"{key}png.JPEG", "format": "PNG"}]}
    assert report["exif_rotation"] == {"count": 1, "files": [{"key": f"{key}rotated.JPEG", "orientation": 6}]}
    assert report["duplicates"] == {"count": 1, "files": [[f"{key}grey.JPEG", f"{key}twice.JPEG"]]}
    assert report["bytes"] == pandas.read_parquet(tmp_path / "train" / "manifest.parquet")["bytes"].sum()


def test_md5_of_the_archive(miniature, tmp_path):
    right = hashlib.md5(miniature.train.read_bytes()).hexdigest()
    options = {"archive": miniature.train, "devkit": miniature.devkit, "expect": "subset", "out": tmp_path / "train"}
    for lmdb in (None, tmp_path / "train.lmdb"):
        with pytest.raises(UserError, match=f"img_train.tar: MD5 {right} instead of 1d675b47d978889d74fa0da5fadfb00e"):
            extract("train", **options, lmdb=lmdb, official_md5=True)
    assert not (tmp_path / "train" / "manifest.parquet").exists()
    assert not (tmp_path / "train.lmdb").exists()
    extract("train", **options, md5=right.upper())
    with pytest.raises(UserError, match=r"devkit_t12.tar.gz: MD5 .* instead of fa75699e90414af021442c21a62c3abf"):
        extract("val", **(options | {"archive": miniature.val, "out": tmp_path / "val"}), official_md5=True)
    with pytest.raises(UserError, match="a folder has no MD5"):
        extract_val(tmp_path, None, tmp_path / "val", expect="subset", md5=right)


def test_val_classes_from_a_text_file_or_from_sorted_folders(miniature, tmp_path):
    usual, text, again = tmp_path / "usual", tmp_path / "text", tmp_path / "again"
    extract_val(miniature.val, miniature.devkit, usual, expect="subset").remove()
    lines = [f"{path.name} {path.parent.name}\n" for path in usual.glob("*/*")]
    (tmp_path / "classes.txt").write_text("".join(lines) + "\n")
    extract_val(miniature.val, tmp_path / "classes.txt", text, expect="subset").remove()
    assert _state(text) == _state(usual)
    (usual / ".DS_Store").write_bytes(b"x")
    extract("val", archive=usual, devkit=None, expect="subset", out=again, jobs=2)
    extract("val", archive=usual, devkit=None, expect="subset", out=tmp_path / "s", lmdb=tmp_path / "s.lmdb")
    assert {path: data for path, data in _state(again).items() if "/" in path} == _state(text)
    images = LMDBImages(tmp_path / "s.lmdb")
    assert all(images.read(index) == (text / key).read_bytes() for index, key in enumerate(images.keys))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a.JPEG\n", r"line 1, 'a.JPEG', is not 'name wnid'"),
        ("a.JPEG ../n1\n", r"line 1, 'a.JPEG ../n1', is not 'name wnid'"),
        ("a.JPEG n1\na.JPEG n2\n", r"line 2 names a.JPEG again"),
        ("\n", r"empty; write a line"),
    ],
)
def test_text_files_with_mistakes(miniature, tmp_path, text, line):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        extract_val(miniature.val, tmp_path / "classes.txt", tmp_path / "val", expect="subset")


def test_val_without_classes(miniature, tmp_path, capsys):
    with pytest.raises(UserError, match="needs --devkit"):
        extract("val", archive=miniature.val, devkit=None, expect="subset", out=tmp_path)
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="no class folders with images; sort them"):
        extract("val", archive=tmp_path / "flat", devkit=None, expect="subset", out=tmp_path / "val")
    command = ["extract", "--split", "val", "--archive", str(tmp_path / "none.tar"), "--devkit", str(miniature.devkit)]
    assert main([*command, "--expect", "subset", "--out", str(tmp_path / "val")]) == 2
    assert f"slimclr extract: error: {tmp_path}/none.tar: no such file; put" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read(open_folder, as_nobody):
    (open_folder / "sorted" / "n1").mkdir(parents=True)
    (open_folder / "sorted" / "n1" / "a.JPEG").write_bytes(_photo())
    (open_folder / "secret.tar").write_bytes(pack([]))
    for path in (open_folder / "sorted" / "n1", open_folder / "secret.tar"):
        path.chmod(0o000)

    def attempt():
        lines = []
        for call in (
            lambda: extract_val(open_folder / "sorted", None, open_folder / "out", expect="subset"),
            lambda: extract_train(open_folder / "secret.tar", open_folder / "out", expect="subset"),
        ):
            with pytest.raises(UserError) as caught:
                call()
            lines.append(str(caught.value))
        return lines

    first, second = as_nobody(attempt)
    assert first == f"{open_folder}/sorted/n1: Permission denied; give a folder that can be read"
    assert second == f"{open_folder}/secret.tar: Permission denied; give a file that can be read"


def test_too_little_space_is_refused_before_anything_is_written(twenty_classes, small_disk):
    disk, _ = small_disk
    for lmdb in (None, disk / "train.lmdb"):
        with pytest.raises(UserError, match=r"needs 3 MB, 1 MB are free; free space, or set paths.work"):
            extract_train(twenty_classes, disk / "train", expect="subset", lmdb=lmdb)
    assert [path.name for path in (disk / "train").rglob("*")] == [".records", "lock"]


def test_a_record_that_the_disk_has_no_room_for_leaves_nothing(small_disk):
    disk, _ = small_disk
    records = Records(disk, ["n1"])
    with pytest.raises(OSError, match="No space left"):
        records.save("n1", ClassRecord(["x" * 2_000_000], "decode", "", [], []))
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("way", ["folders", "straight", "convert"])
def test_a_disk_that_fills_up_loses_nothing(twenty_classes, small_disk, tmp_path, monkeypatch, way):
    monkeypatch.setattr(extract_module, "check_space", lambda folder, needed: None)
    monkeypatch.setattr(convert_module, "check_space", lambda folder, needed: None)
    monkeypatch.setattr(lmdb_module, "_COMMIT_EVERY_BYTES", 20_000)
    disk, enlarge = small_disk
    run = _way(way, twenty_classes, disk, tmp_path)
    with pytest.raises(UserError, match=r"the disk is full; free space and run this stage again, it goes on") as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not (disk / "train.lmdb").exists()
    enlarge()
    run()
    _compare(way, twenty_classes, disk, tmp_path / "undisturbed")


def _way(way, archive, out, work):
    """One of the three long jobs, as a function without arguments."""
    if way == "folders":
        return lambda: extract_train(archive, out / "train", expect="subset", jobs=2)
    if way == "straight":
        return lambda: extract_train(archive, work / "scan", expect="subset", jobs=2, lmdb=out / "train.lmdb")
    if not (work / "folder").exists():
        extract("train", archive=archive, devkit=None, expect="subset", out=work / "folder")
    return lambda: write_lmdb(work / "folder", work / "folder" / "manifest.parquet", out / "train.lmdb")


def _compare(way, archive, out, undisturbed):
    """What is in `out` must be what an undisturbed run gives."""
    if not undisturbed.exists():
        _way(way, archive, undisturbed, undisturbed)()
    if way == "folders":
        found, expected = _state(out / "train"), _state(undisturbed / "train")
        assert found == expected
    else:
        assert lmdb_content(out / "train.lmdb") == lmdb_content(undisturbed / "train.lmdb")


@pytest.mark.parametrize("way", ["folders", "straight", "convert"])
def test_killed_at_ten_random_moments(twenty_classes, tmp_path, monkeypatch, way):
    monkeypatch.setattr(lmdb_module, "_COMMIT_EVERY_BYTES", 50_000)
    fork, rng = multiprocessing.get_context("fork"), random.Random(way)
    process = fork.Process(target=_way(way, twenty_classes, tmp_path / "timed", tmp_path))
    start = time.monotonic()
    process.start()
    process.join()
    duration = time.monotonic() - start

    def begun(out: Path) -> bool:
        return part_path(out / "train.lmdb").exists() or any((out / "train").glob("n*"))

    killed = attempt = 0
    while killed < 10:
        attempt += 1
        out, work = tmp_path / str(attempt), tmp_path / (f"work{attempt}" if way == "straight" else "")
        process = fork.Process(target=_way(way, twenty_classes, out, work))
        process.start()
        if killed == 0:
            while process.is_alive() and not begun(out):
                pass
        else:
            time.sleep(rng.uniform(0, duration))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it was quicker than the first one
            duration *= 0.8
            continue
        killed += 1
        if (out / "train.lmdb").exists():
            _compare(way, twenty_classes, out, tmp_path / "undisturbed")
        _way(way, twenty_classes, out, work)()
        _compare(way, twenty_classes, out, tmp_path / "undisturbed")


def test_two_runs_at_a_time_are_refused(miniature, tmp_path, monkeypatch):
    from slimclr import lock

    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.1)
    with (
        lock.exclusive_lock(tmp_path / "train" / ".records" / "lock"),
        pytest.raises(UserError, match=r"another process is writing this data set"),
    ):
        extract_train(miniature.train, tmp_path / "train", expect="subset")


def _anonymous_memory(root):
    """RssAnon of a process and its descendants, in bytes."""
    parents, memory = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            pid = int(status.parent.name)
            parents[pid] = int(fields["PPid"])
            memory[pid] = int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(memory.get(pid, 0) for pid in family)


@pytest.mark.slow
def test_twenty_thousand_images_in_little_memory(tmp_path):
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    tiny_archive(archive, classes=50, per_class=400)
    command = [shutil.which("slimclr", path=Path(os.sys.executable).parent)]
    extraction = [*command, "extract", "--split", "train", "--archive", archive, "--expect", "subset", "--jobs", "2"]
    for arguments in (
        [*extraction, "--out", tmp_path / "train"],
        [*command, "convert", "--folder", tmp_path / "train", "--out", tmp_path / "train.lmdb"],
        [*extraction, "--out", tmp_path / "scan", "--lmdb", tmp_path / "straight.lmdb"],
    ):
        peak = 0
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            while process.poll() is None:
                peak = max(peak, _anonymous_memory(process.pid))
                time.sleep(0.1)  # looking through /proc costs, and takes turns with what is looked at
            output = process.stdout.read()
        assert process.returncode == 0, output
        assert "20,000" in output
        assert peak < 500e6
    table = pandas.read_parquet(tmp_path / "train" / "manifest.parquet")
    assert len(table) == table["sha1"].nunique() == 20_000
    assert np.bincount(table["label"]).tolist() == [400] * 50
    assert lmdb_content(tmp_path / "train.lmdb") == lmdb_content(tmp_path / "straight.lmdb")
    assert sum(len(list(folder.iterdir())) for folder in (tmp_path / "train").glob("n*")) == 20_000
