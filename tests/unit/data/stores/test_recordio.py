"""Reader and writer against a writer of our own, made from the format's description, and against mxnet and DALI."""

import io
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimclr.cli import main
from slimclr.data.stores import open_images
from slimclr.data.stores.convert import write_lmdb
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.recordio import MAGIC, RecordImages
from slimclr.errors import UserError

VENV = Path(__file__).parents[4] / ".venvs/recordio"
needs_mxnet = pytest.mark.skipif(
    not (VENV / "installed.sha256").exists(), reason=f"{VENV} is not installed; `make .venvs/recordio` installs it"
)


def record(label, identity, image, flag=0):
    """The content of a record, in parts that begin where the magic number lies at a multiple of 4."""
    content = struct.pack("<IfQQ", flag, 0 if flag else label, identity, 0)
    content += struct.pack(f"<{flag}f", *[label] * flag) + image
    parts, start = [], 0
    for place in range(0, len(content) - 3, 4):
        if content[place : place + 4] == MAGIC:
            parts.append(content[start:place])
            start = place + 4
    parts.append(content[start:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def write(path, images, **options):
    """Write (key, label, bytes) as mxnet would."""
    rec, idx, lst = b"", "", ""
    for index, (key, label, image) in enumerate(images):
        idx += f"{index}\t{len(rec)}\n"
        lst += f"{index}\t{label}\t{key}\n"
        rec += record(label, index, image, **options)
    path.write_bytes(rec)
    path.with_suffix(".idx").write_text(idx)
    path.with_suffix(".lst").write_text(lst)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of several sizes and lengths; in one the magic number lies at every distance from a multiple of 4."""
    root = tmp_path_factory.mktemp("recordio") / "train"
    draw = np.random.default_rng(0)
    for index in range(20):
        path = root / f"n{index // 5}" / f"{index}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (8 + index % 3, 12 + index, 3), dtype=np.uint8)
        comment = {"comment": (MAGIC + b".") * 8} if index == 7 else {}
        Image.fromarray(pixels).resize((60 + index, 40 if index else 20)).save(path, **comment)
    return root


@pytest.fixture(scope="module")
def images(folder):
    return FolderImages(folder)


@pytest.fixture
def rec(images, tmp_path):
    contents = [images.read(index) for index in range(len(images))]
    return write(tmp_path / "train.rec", zip(images.keys, images.labels.tolist(), contents, strict=True))


class Bytes(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return index, self.images.read(index)


def same(rec, images):
    found = open_images(rec)
    assert isinstance(found, RecordImages)
    assert (found.keys, found.classes, len(found)) == (images.keys, images.classes, len(images))
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == images.labels.tolist()
    assert all(found.read(index) == images.read(index) for index in range(len(images)))


def test_same_images_as_the_folder(rec, images):
    same(rec, images)
    assert any(struct.pack("<I", 3 << 29)[3] == byte for byte in rec.read_bytes()[7::4])  # a record in parts


def test_magic_number_anywhere_and_labels_behind_the_header(tmp_path):
    contents = [MAGIC, 2 * MAGIC, b"x" + MAGIC, b"1234" + MAGIC, MAGIC + b"1", b"1", b"12345678", b"123" + 3 * MAGIC]
    rows = [(f"{'ab'[index % 2]}/{index}", index % 2, content) for index, content in enumerate(contents)]
    for flag in (0, 1, 2):
        found = RecordImages(write(tmp_path / f"{flag}.rec", rows, flag=flag))
        assert [found.read(index) for index in range(len(found))] == contents
        assert found.classes == ["a", "b"]


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (1, "spawn")])
def test_loader_workers_read_the_same(rec, images, workers, start):
    found = RecordImages(rec)
    found.read(0)
    context = multiprocessing.get_context(start) if start else None
    loader = torch.utils.data.DataLoader(
        Bytes(found), batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    assert dict(loader) == {index: images.read(index) for index in range(len(images))}
    assert pickle.loads(pickle.dumps(found)).read(1) == found.read(1)
    with pytest.raises(IndexError):
        found.read(len(images))


@pytest.mark.parametrize("cut", [1, 2, 4, 100, 20_000])
def test_truncated(rec, cut):
    rec.write_bytes(rec.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"(truncated|does not fit).*; write the RecordIO files again$"):
        RecordImages(rec)


@pytest.mark.parametrize("suffix", [".lst", ".idx"])
def test_missing_list_or_index(rec, suffix):
    rec.with_suffix(suffix).unlink()
    with pytest.raises(UserError, match=rf"train{suffix}: no such file; a .rec needs its .idx and .lst beside it"):
        RecordImages(rec)


def test_missing_records(tmp_path):
    with pytest.raises(UserError, match="no such data set"):
        open_images(tmp_path / "none.rec")
    with pytest.raises(UserError, match="no such file"):
        RecordImages(tmp_path / "none.rec")


def change(path, edit):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(edit(lines)))


def moved(by):
    return lambda line: "{}\t{}\n".format(line.split("\t")[0], int(line.split("\t")[1]) + by)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[:-1], "does not fit train.lst .19 and 20 records"),
        (lambda lines: [], "does not fit train.lst"),
        (lambda lines: [*lines[:-1], "99\t0\n"], "does not fit train.lst"),
        (lambda lines: [*lines[:3], moved(4)(lines[3]), *lines[4:]], "no record at offset|truncated, damaged"),
        (lambda lines: [*lines[:3], moved(1)(lines[3]), *lines[4:]], "does not fit train.rec"),
        (lambda lines: [*lines[:3], moved(1 << 30)(lines[3]), *lines[4:]], "does not fit train.rec"),
        (lambda lines: [moved(4)(line) for line in lines], "does not fit train.rec"),
        (lambda lines: ["1\tx\n", *lines[1:]], "line 1: not of RecordIO"),
        (lambda lines: [*lines[:-1], "19\t1"], "line 20: not of RecordIO"),
    ],
)
def test_index_that_does_not_fit(rec, edit, message):
    change(rec.with_suffix(".idx"), edit)
    with pytest.raises(UserError, match=rf"train\.\w+: .*({message}).*; write the RecordIO files again$"):
        RecordImages(rec)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [], "empty"),
        (lambda lines: ["0\t1\tn0/0.JPEG\n", *lines[1:]], "label 1 is both 'n0' and 'n1'"),
        (lambda lines: [line.replace("\t3\t", "\t4\t") for line in lines], "labels must be 0, 1, ..."),
        (lambda lines: ["0\tn0/0.JPEG\n", *lines[1:]], "line 1: not of RecordIO"),
    ],
)
def test_bad_list(rec, edit, message):
    change(rec.with_suffix(".lst"), edit)
    with pytest.raises(UserError, match=rf"train.lst: {message}.*; write the RecordIO files again$"):
        RecordImages(rec)


def test_list_of_another_file(rec, images):
    """Lists of the same length, classes and ids: only a record's own header tells."""
    rows = [f"{index}\t{3 - images.labels[index]}\t{key}\n" for index, key in enumerate(images.keys)]
    rec.with_suffix(".lst").write_text("".join(rows))
    with pytest.raises(UserError, match=r"record 0 has label 0, the list says 3 for n0/0.JPEG .* not of this .rec"):
        RecordImages(rec).read(0)


def test_empty_record_and_damaged_record(rec, images, tmp_path):
    rows = [("a/0", 0, b"image"), ("a/1", 0, b""), ("a/2", 0, b"image")]
    found = RecordImages(write(tmp_path / "empty.rec", rows))
    assert found.read(0) == found.read(2) == b"image"
    with pytest.raises(UserError, match=r"empty.rec: a/1: an empty record instead of an image"):
        found.read(1)
    found = RecordImages(rec)
    place = int(found._starts[7])
    data = bytearray(rec.read_bytes())
    data[place : place + 4] = b"oops"
    rec.write_bytes(data)
    with pytest.raises(UserError, match=rf"train.rec: the record of {found.keys[7]} does not fill"):
        found.read(7)
    with pytest.raises(UserError, match="no record at offset"):
        RecordImages(rec)


# ---------------------------------------------------------------------------------------------------- with mxnet


def run(*arguments):
    """`slimclr recordio` where mxnet is and torch is not."""
    command = [VENV / "bin/slimclr", "recordio", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "train.rec"
    done = run("--data", folder, "--out", path, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert "write train.rec: 20/20 images" in done.stderr
    return path


@needs_mxnet
def test_mxnet_writes_what_we_read(written, rec, images):
    same(written, images)
    for suffix in (".rec", ".idx", ".lst"):
        assert written.with_suffix(suffix).read_bytes() == rec.with_suffix(suffix).read_bytes()
    assert sorted(path.name for path in written.parent.iterdir()) == ["train.idx", "train.lst", "train.rec"]


@needs_mxnet
def test_from_an_lmdb(extracted, tmp_path):
    write_lmdb(extracted, extracted / "manifest.parquet", tmp_path / "train.lmdb")
    done = run("--data", tmp_path / "train.lmdb", "--out", tmp_path / "new/train.rec", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "new/train.rec", open_images(tmp_path / "train.lmdb"))


@needs_mxnet
def test_dali_reads_the_same(written, images):
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        encoded, label = fn.readers.mxnet(path=[str(written)], index_path=[str(written.with_suffix(".idx"))])
        return encoded, label, fn.decoders.image(encoded, device="cpu", output_type=types.RGB)

    pipe = pipeline()
    pipe.build()
    for index in range(len(images)):
        encoded, label, pixels = (np.asarray(output[0]) for output in pipe.run())
        assert encoded.tobytes() == images.read(index)
        assert label.item() == images.labels[index]
        ours = np.asarray(Image.open(io.BytesIO(images.read(index))).convert("RGB"))
        assert np.abs(pixels.astype(int) - ours).max() <= 2


@needs_mxnet
def test_resize(folder, images, tmp_path):
    done = run("--data", folder, "--out", tmp_path / "train.rec", "--resize", 20, "--quality", 80, "--jobs", 1)
    assert done.returncode == 0, done.stderr
    found = RecordImages(tmp_path / "train.rec")
    assert found.keys == images.keys
    assert found.read(0) == images.read(0)  # no larger than wanted
    for index in range(1, len(found)):
        small, large = Image.open(io.BytesIO(found.read(index))), Image.open(io.BytesIO(images.read(index)))
        assert (small.format, small.size) == ("JPEG", (round(large.width / 2), 20))
        expected = large.resize(small.size, Image.Resampling.BICUBIC).convert("L")
        assert np.abs(np.asarray(small.convert("L"), int) - np.asarray(expected, int)).mean() < 8


@needs_mxnet
def test_killed_then_run_again(folder, tmp_path):
    out = tmp_path / "out/train.rec"
    data = tmp_path / "data/a"
    data.mkdir(parents=True)
    Image.effect_noise((700, 700), 50).convert("RGB").save(data / "000.JPEG")
    for index in range(1, 60):
        (data / f"{index:03d}.JPEG").hardlink_to(data / "000.JPEG")
    options = ["--data", data.parent, "--jobs", "1", "--out", out]
    part = out.with_name(".train.rec.part") / "train.rec"
    with subprocess.Popen(
        [VENV / "bin/slimclr", "recordio", *options, "--resize", "300"], stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert part.exists()
    assert not out.exists()
    assert run(*options).returncode == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["train.idx", "train.lst", "train.rec"]
    same(out, FolderImages(data.parent))


@needs_mxnet
def test_bad_images(folder, tmp_path):
    def error(name, content, *options):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        done = run("--data", tmp_path / "data", "--out", tmp_path / "out/train.rec", *options)
        path.unlink()
        assert done.returncode == 2
        assert not os.listdir(tmp_path / "out")
        return done.stderr.splitlines()[-1]

    photo = (folder / "n0/0.JPEG").read_bytes()
    assert "a/0.JPEG: an empty file instead of an image" in error("a/0.JPEG", b"", "--jobs", 2)
    assert "a/0.JPEG: not a readable image" in error("a/0.JPEG", photo[:-400], "--jobs", 1, "--resize", 9)
    assert "has a character that a .lst cannot hold" in error("a/0\t.JPEG", photo, "--jobs", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "train.lmdb"], "--out train.lmdb: must end in .rec"),
        (["--out", "train.rec", "--resize", "0"], "--resize 0: must be at least 1 pixel"),
        (["--out", "train.rec", "--quality", "101"], "--quality 101: must be between 1 and 95"),
        (["--out", "train.rec", "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--out", "train.rec"], "mxnet cannot be imported"),
    ],
)
def test_one_line_on_the_command_line(folder, arguments, message, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mxnet", None)
    assert main(["recordio", "--data", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_imports_without_torch_and_mxnet():
    """In its environment there is no torch; everywhere else there is no mxnet."""
    code = "import sys; sys.modules.update(torch=None, mxnet=None); import slimclr.cli, slimclr.stages.recordio"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", ["verify", "pretrain", "probe", "import"])
def test_the_help_of_what_reads_a_data_set_names_recordio(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("an LMDB, RecordIO files (.rec) or a folder of classes") == (2 if command == "probe" else 1)
