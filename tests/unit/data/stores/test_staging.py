"""Copies on node-local scratch: shared, checked, removed; whatever is killed in between."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from slimclr.cli import main
from slimclr.data.archives.extract import extract_val
from slimclr.data.stores import open_images, staging
from slimclr.data.stores.convert import write_lmdb
from slimclr.data.stores.staging import staged
from slimclr.errors import UserError

# Stages, says where and what is in it, and holds it until its standard input ends.
HOLDER = """
import sys, time
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from slimclr.data.stores import open_images, staging

@contextmanager
def slow(*_, **__):
    yield lambda _: time.sleep(0.02)

if len(sys.argv) > 3:
    staging._CHUNK_BYTES, staging.progress = 4096, slow
with staging.staged(Path(sys.argv[1]), sys.argv[2]) as path:
    images = open_images(path)
    print(path, sha256(b"".join(map(images.read, range(len(images))))).hexdigest(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def database(extracted, tmp_path_factory):
    path = tmp_path_factory.mktemp("lmdb") / "train.lmdb"
    write_lmdb(extracted, extracted / "manifest.parquet", path)
    return path


@pytest.fixture
def holder(database, tmp_path):
    """Starts processes that stage the database."""
    started = []

    def start(*options):
        command = [sys.executable, "-c", HOLDER, database, tmp_path / "scratch", *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def copies(scratch):
    return sorted(path for path in scratch.rglob("*.lmdb"))


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_two_processes_at_once_share_one_copy_and_the_last_removes_it(holder, database, tmp_path):
    both = [holder("slow"), holder("slow")]
    said = [process.stdout.readline().split() for process in both]
    assert said[0] == said[1]
    assert [str(path) for path in copies(tmp_path / "scratch")] == [said[0][0]]
    assert Path(said[0][0]).read_bytes() == database.read_bytes()
    first, last = both
    messages = first.communicate()[1]
    assert copies(tmp_path / "scratch") == [Path(said[0][0])]
    messages += last.communicate()[1]
    assert messages.count("sharing it") == 1
    assert copies(tmp_path / "scratch") == []


def test_without_scratch_nothing_is_copied(database):
    with staged(database, None) as path:
        assert path == database


def test_a_copy_that_was_killed_in_the_middle_is_made_again(holder, database, tmp_path, capfd):
    killed = holder("slow")
    wait_for(lambda: any(path.stat().st_size > 0 for path in copies(tmp_path / "scratch")))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (part,) = copies(tmp_path / "scratch")
    assert part.stat().st_size < database.stat().st_size
    with staged(database, str(tmp_path / "scratch")) as path:
        assert path.read_bytes() == database.read_bytes()
        assert copies(tmp_path / "scratch") == [path]
    assert "left by another job and unfinished; copied again" in capfd.readouterr().err


@pytest.mark.parametrize("damaged", [False, True])
def test_a_copy_that_a_crash_left_is_checked_before_it_is_used(damaged, holder, database, tmp_path, capfd):
    killed = holder()
    copy = Path(killed.stdout.readline().split()[0])
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = copy.stat().st_ino
    if damaged:
        images = open_images(database)
        # All of them: LMDB writes pages with what was in memory before, which may be this image.
        end = images.read(0)[-64:]
        copy.write_bytes(copy.read_bytes().replace(end, bytes([end[0] ^ 1]) + end[1:]))
    with staged(database, str(tmp_path / "scratch")) as path:
        assert path.read_bytes() == database.read_bytes()
        assert (path.stat().st_ino == before) or damaged
    said = capfd.readouterr().err
    line = "left by another job and damaged (" if damaged else "left by another job and whole; used again"
    assert line in said
    assert ("copied again" in said) == damaged


def test_a_disk_that_changes_what_is_written_is_noticed(database, tmp_path, monkeypatch):
    def flip(path, part, size):
        part.write_bytes(
            path.read_bytes().replace(open_images(database).read(0), bytes(len(open_images(database).read(0))))
        )

    monkeypatch.setattr(staging, "_copy", flip)
    with pytest.raises(UserError, match=r"copied, but damaged .* look at that disk"), staged(database, str(tmp_path)):
        pass
    assert copies(tmp_path) == []


def test_a_database_that_is_replaced_while_it_is_copied_is_refused(database, miniature, tmp_path, monkeypatch):
    path, other = tmp_path / "train.lmdb", tmp_path / "other.lmdb"
    shutil.copy(database, path)
    extract_val(miniature.val, miniature.devkit, tmp_path / "val", expect="subset", lmdb=other)

    def replace_first(source, part, size):
        other.replace(source)
        shutil.copy(source, part)

    monkeypatch.setattr(staging, "_copy", replace_first)
    line = f"{path}: was replaced while it was copied to .*; run this stage again"
    with pytest.raises(UserError, match=line), staged(path, str(tmp_path / "scratch")):
        pass
    assert copies(tmp_path / "scratch") == []


def test_copies_of_other_data_that_nobody_uses_are_removed(holder, extracted, database, tmp_path):
    killed, used = holder(), holder()
    copy = Path(killed.stdout.readline().split()[0])
    used.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    other = database.with_name("val.lmdb")
    write_lmdb(extracted, extracted / "manifest.parquet", other)
    with staged(other, str(tmp_path / "scratch")):
        assert copy.exists()
        used.kill()
        used.wait()
    with staged(other, str(tmp_path / "scratch")):
        assert not copy.exists()


def test_too_little_space_is_one_warning_and_the_original_is_read(database, tmp_path, capfd, monkeypatch):
    scratch = tmp_path / "small"
    scratch.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", scratch]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with staged(database, str(scratch)) as path:
            assert path == database
        # Another program fills the disk in the meantime.
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage(1 << 40, 0, 1 << 40))
        with staged(database, str(scratch)) as path:
            assert path == database
        assert copies(scratch) == []
    finally:
        subprocess.run(["umount", scratch], check=True)
    lines = [line for line in capfd.readouterr().err.splitlines() if "warning: no room for train.lmdb" in line]
    assert len(lines) == 2
    assert "MB are free" in lines[0]
    assert "the disk became full" in lines[1]
    assert all(f"reading {database} itself" in line for line in lines)


def test_a_process_that_finds_no_room_does_not_keep_the_next_one_waiting(holder, database, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage(0, 0, 0))
    with staged(database, str(tmp_path / "scratch")) as path:
        assert path == database
        assert Path(holder().stdout.readline().split()[0]) != database


def test_variables_are_those_of_the_job(database, tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_DISK", str(tmp_path / "disk of job 7"))
    with staged(database, "${JOB_DISK}/x") as path:
        assert path.is_relative_to(tmp_path / "disk of job 7/x")
    with (
        pytest.raises(UserError, match=r"paths.scratch: \$NOT_SET/x: not set on .* name a folder"),
        staged(database, "$NOT_SET/x"),
    ):
        pass


def test_what_cannot_be_staged_is_one_line(extracted, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="only an LMDB can be copied"), staged(extracted, str(tmp_path)):
        pass
    recipe = '{"method": {"name": "mocov2"}, "epochs": 1, "batch": 8, "bn_batch": 4, "optimizer": {"lr": 0.1}}'
    command = [
        "pretrain",
        "--name",
        "x",
        "--recipe",
        recipe,
        "--data",
        str(tmp_path / "x.lmdb"),
        "--out",
        str(tmp_path),
    ]
    command += ["--checkpoints", str(tmp_path), "--scratch", str(tmp_path / "file")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "paths.scratch:" in error
    assert "Not a directory" in error
