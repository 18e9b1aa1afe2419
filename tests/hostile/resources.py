"""Every stage with too little disk, a folder that may not be written, too little memory, too few descriptors."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.helpers.hostile import READ_IMAGES, Starter, World
from tests.hostile.attack import Attack, limit_memory

SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Of what a stage writes that there is room for."""


def attacks(world: World, starter: Starter, stages: list[str]) -> Iterator[Attack]:
    """Each stage, with each lack in several sizes."""
    out = world.folder / "lacking/out"
    for stage in stages:
        workers = {"workers": 1} if stage in READ_IMAGES else {}
        whole = world.folder / f"whole/{stage}"
        command, log = world.command(stage, whole, **workers), world.folder / f"whole/{stage}.log"
        assert starter.run(command, log) == 0, log.read_text()
        sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
        command = world.command(stage, out, **workers)
        for share in SHARES:
            kib = max(4, round(share * sum(sizes) / 1024))
            yield Attack(f"a full disk: {stage}", f"{kib} KiB", command, out, partial(_disk, out, f"size={kib}k"))
        yield Attack(f"a full disk: {stage}", "no inode left", command, out, partial(_disk, out, "nr_inodes=3"))
        yield Attack(f"a read-only disk: {stage}", "", command, out, partial(_disk, out, "ro"), refused=True)
        yield Attack(f"a read-only disk: {stage}", "a file", command, out, partial(_file, out), refused=True)
        for share in SHARES[1:]:
            most = round(share * max(sizes))
            yield Attack(
                f"a limit of files' sizes: {stage}", f"{most} bytes", command, out, before=partial(_size, most)
            )
        for mebibytes in (1, 8, 32, 64, 128, 256, 512):
            limit = partial(limit_memory, mebibytes)
            yield Attack(f"no memory: {stage}", f"{mebibytes} MiB more", command, out, before=limit)
        for more in (0, 1, 2, 4, 8, 12, 16, 24):
            yield Attack(f"few descriptors: {stage}", f"{more} more", command, out, before=partial(_descriptors, more))


@contextmanager
def _disk(folder: Path, options: str) -> Iterator[None]:
    """A disk of its own in memory; needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def _file(folder: Path) -> Iterator[None]:
    """Where the folder should be lies a file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()


def _size(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def _descriptors(more: int) -> None:
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, highest + 1 + more))
