"""Checkpoints: whole or absent, damaged ones noticed, the one before used."""

import errno
import os
import subprocess

import pytest
import torch

from slimclr.engine import checkpoints as module
from slimclr.engine.checkpoints import CheckpointManager, list_checkpoints, load_checkpoint
from slimclr.errors import UserError


def saved(folder, *steps, **more):
    writer = CheckpointManager(folder)
    for step in steps:
        writer.save({"step": step, "epoch": step, "weights": torch.full((2000,), float(step)), **more})
    writer.wait()
    return [folder / f"step_{step:08d}.pt" for step in steps[-2:]]


def test_the_newest_two_are_kept_with_checksums_that_sha256sum_accepts(tmp_path):
    before, newest = saved(tmp_path, 1, 2, 3)
    assert list_checkpoints(tmp_path) == [before, newest]
    assert CheckpointManager(tmp_path).newest() == newest
    checked = subprocess.run(["sha256sum", "-c", f"{newest.name}.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.stdout == f"{newest.name}: OK\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"{p.name}{end}" for p in (before, newest) for end in ("", ".sha256")]
    )


def test_a_copy_is_saved_not_what_the_tensors_become(tmp_path):
    weights = torch.zeros(1000)
    writer = CheckpointManager(tmp_path)
    writer.save({"step": 1, "weights": weights})
    weights += 1
    writer.wait()
    assert load_checkpoint(writer.newest())["weights"].sum() == 0


def test_one_is_due_so_many_minutes_after_the_last_save(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    writer = CheckpointManager(tmp_path)
    for _ in range(2):
        now[0] += 119
        assert not writer.due(2)
        now[0] += 2
        assert writer.due(2)
        writer.save({"step": 1})
    writer.wait()


def test_some_stay_for_good(tmp_path):
    writer = CheckpointManager(tmp_path)
    for step in range(1, 6):
        writer.save({"step": step, "epoch": step}, keep=step % 2 == 0)
    writer.wait()
    assert [path.name for path in sorted(tmp_path.glob("epoch_*.pt"))] == ["epoch_00002.pt", "epoch_00004.pt"]
    assert load_checkpoint(tmp_path / "epoch_00002.pt")["step"] == 2


def test_one_that_stays_is_replaced_with_its_checksum_even_without_hard_links(tmp_path, monkeypatch):
    for weights in (1.0, 2.0):
        writer = CheckpointManager(tmp_path)
        writer.save({"step": 4, "epoch": 2, "weights": torch.full((2000,), weights)}, keep=True)
        writer.wait()
        assert load_checkpoint(tmp_path / "epoch_00002.pt")["weights"][0] == weights
        monkeypatch.setattr(module.os, "link", lambda *_: os.stat("/no/such/file"))


@pytest.mark.parametrize("tenths", range(10))
def test_one_that_was_cut_off_is_noticed_and_the_one_before_is_used(tmp_path, capsys, tenths):
    before, newest = saved(tmp_path, 1, 2)
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) * tenths // 10])
    assert CheckpointManager(tmp_path).newest() == before
    assert (
        f"{newest}: damaged, its checksum does not fit; going on from the checkpoint before" in capsys.readouterr().err
    )
    assert newest.with_name(f"{newest.name}.damaged").exists()  # nothing is thrown away


def test_a_flipped_byte_is_noticed(tmp_path):
    before, newest = saved(tmp_path, 1, 2)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert CheckpointManager(tmp_path).newest() == before


def test_a_missing_checksum_is_noticed(tmp_path):
    before, newest = saved(tmp_path, 1, 2)
    newest.with_name(f"{newest.name}.sha256").unlink()
    assert CheckpointManager(tmp_path).newest() == before


def test_when_all_are_damaged_nothing_begins_from_zero(tmp_path):
    for path in saved(tmp_path, 1, 2):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match="every checkpoint is damaged; remove this folder"):
            CheckpointManager(tmp_path).newest()


def test_one_that_is_named_must_be_whole(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    _, newest = saved(tmp_path, 1, 2)
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(UserError, match="its checksum does not fit; name another one"):
        load_checkpoint(newest)


def test_a_full_disk_leaves_the_one_before_whole(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        writer = CheckpointManager(disk)
        writer.save({"step": 1, "weights": torch.zeros(25_000)})
        writer.wait()
        for step in (2, 3):
            writer.save({"step": step, "weights": torch.zeros(100_000)})
            with pytest.raises(UserError, match="the disk is full; free space and run this stage again"):
                writer.wait()
        assert load_checkpoint(writer.newest())["step"] == 1
        assert not list(disk.glob("*.part*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_error_of_the_thread_reaches_the_next_save(tmp_path, monkeypatch):
    writer = CheckpointManager(tmp_path)

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.torch, "save", refuse)
    writer.save({"step": 1})
    with pytest.raises(UserError, match=r"cannot be written \(.*Input/output error"):
        writer.save({"step": 2})
