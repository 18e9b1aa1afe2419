"""A copy of an LMDB on node-local scratch, shared by the processes and jobs of a node; the last one removes it.

In the scratch folder, for a database whose images have the digest <d>:

    slimclr-<user id>/<name>-<d>.lmdb        a complete, verified copy
    slimclr-<user id>/<name>-<d>.part.lmdb   a copy that is being written or verified, or was left by a crash
    slimclr-<user id>/<name>-<d>.lock        locked exclusively to write, verify or remove the copy, shared to read it

The kernel frees a lock when its process ends, also after a crash. So a copy whose lock can be taken exclusively is not
in use: the last reader removes it, and after a crash the next job verifies it and uses it, or removes it.
"""

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimclr.data.stores.lmdb import LMDBImages
from slimclr.data.stores.verify import verify
from slimclr.errors import UserError
from slimclr.progress import progress

_CHUNK_BYTES = 1 << 24


@contextmanager
def staged(path: Path, scratch: str | None) -> Iterator[Path]:
    """Read a database from node-local scratch.

    Args:
        path: The LMDB.
        scratch: Folder on this node; environment variables in it are replaced by their values here. None: no copy.

    Yields:
        The copy; `path` itself without scratch, or when the copy does not fit there, which a line on stderr says.

    Raises:
        UserError: `path` is no LMDB of ours, the folder cannot be used, or the copy differs from the original.
    """
    if scratch is None:
        yield path
        return
    if path.suffix != ".lmdb":
        raise UserError(f"{path}: only an LMDB can be copied to scratch; convert it, or leave paths.scratch out")
    folder = scratch_folder(scratch)
    copy = folder / f"{path.stem}-{LMDBImages(path).digest[:16]}.lmdb"
    _remove_unused(folder, keep=copy)
    descriptor = _open_lock(copy)
    try:
        there = _share(path, copy, descriptor)
        yield copy if there else path
    finally:
        if _exclusive(descriptor):
            _remove(copy)
        os.close(descriptor)


def scratch_folder(scratch: str) -> Path:
    """Where copies lie on this node; made when it is missing.

    Args:
        scratch: As for `staged`.

    Raises:
        UserError: A variable is not set here, or the folder cannot be written.
    """
    place = os.path.expanduser(os.path.expandvars(scratch))
    node = os.uname().nodename
    if "$" in place:
        raise UserError(f"paths.scratch: {scratch}: not set on {node}: {place}; name a folder that every node has")
    folder = Path(place) / f"slimclr-{os.getuid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(
            f"paths.scratch: {folder} on {node}: {error.strerror}; name a folder that every node has, or leave it out"
        ) from None
    return folder


def _share(path: Path, copy: Path, descriptor: int) -> bool:
    """Take the shared lock of a verified copy, which is made first if there is none.

    Returns:
        Whether the copy exists and its shared lock is held; False if there is no room for it.
    """
    while True:
        if _exclusive(descriptor):
            if not _make(path, copy):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                return False
        elif _first_of_job():
            _say(f"{copy}: another process copies or uses it; sharing it")
        # Waits for the process that makes it. Changing the exclusive into a shared lock is not atomic: hence the loop.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if copy.exists():
            return True


def _make(path: Path, copy: Path) -> bool:
    """Make the copy, or check the one that a crash left; False when there is no room. Needs the exclusive lock."""
    part = _part(copy)
    if copy.exists():
        # Without readers: it has not the final name again before it is checked.
        copy.replace(part)
    size = path.stat().st_size
    if part.exists():
        damage = "unfinished" if part.stat().st_size != size else _damage(part) or _other(part, copy)
        if not damage:
            _say(f"{copy}: left by another job and whole; used again")
            part.replace(copy)
            return True
        _say(f"{copy}: left by another job and {damage}; copied again")
        part.unlink()
    free = shutil.disk_usage(copy.parent).free
    if size > free:
        _no_room(path, copy, f"needs {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
        return False
    try:
        _copy(path, part, size)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise UserError(f"{part}: {error.strerror}; look at that disk, or leave paths.scratch out") from error
        _no_room(path, copy, "the disk became full")
        return False
    damage = _damage(part)
    if damage:
        part.unlink()
        raise UserError(
            f"{copy}: copied, but {damage}; look at that disk, and check the original: slimclr verify --content {path}"
        )
    if _other(part, copy):
        part.unlink()
        raise UserError(f"{path}: was replaced while it was copied to {copy.parent}; run this stage again")
    part.replace(copy)
    return True


def _copy(path: Path, part: Path, size: int) -> None:
    with (
        open(path, "rb", buffering=0) as source,
        open(part, "wb", buffering=0) as target,
        progress(f"copy {path.name} to {part.parent}", round(size / 1e6), unit="MB") as advance,
    ):
        done = 0
        while chunk := source.read(_CHUNK_BYTES):
            view = memoryview(chunk)
            while view:
                view = view[target.write(view) :]
            advance(round((done + len(chunk)) / 1e6) - round(done / 1e6))
            done += len(chunk)


def _damage(copy: Path) -> str:
    """What is wrong with a copy, every byte of its images read; empty when nothing is."""
    try:
        verify(copy, content=True)
    except UserError as error:
        return f"damaged ({str(error).removeprefix(f'{copy}: ').partition(';')[0]})"
    return ""


def _other(part: Path, copy: Path) -> str:
    """What a copy holds when it is not what its name says; empty when it is."""
    return "" if copy.stem.endswith(f"-{LMDBImages(part).digest[:16]}") else "of other images"


def _no_room(path: Path, copy: Path, why: str) -> None:
    if _first_of_job():
        _say(f"{copy.parent}: warning: no room for {path.name} ({why}); reading {path} itself, which may be slower")


def _remove_unused(folder: Path, *, keep: Path) -> None:
    """Remove copies of other data that crashed jobs left."""
    for lock in folder.glob("*.lock"):
        copy = lock.with_suffix(".lmdb")
        if copy == keep:
            continue
        descriptor = _open_lock(copy)
        if _exclusive(descriptor):
            _remove(copy)
        os.close(descriptor)


def _remove(copy: Path) -> None:
    """Free the space. The lock file stays: waiting processes have it open."""
    for file in (copy, _part(copy)):
        file.unlink(missing_ok=True)


def _part(copy: Path) -> Path:
    return copy.with_suffix(".part.lmdb")


def _open_lock(copy: Path) -> int:
    return os.open(copy.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)


def _exclusive(descriptor: int) -> bool:
    """Take the lock for this process alone, if no other has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _first_of_job() -> bool:
    """Whether this is local rank 0, which prints for the other processes of its job on this node."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
