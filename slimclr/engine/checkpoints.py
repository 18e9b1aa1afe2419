"""Rolling checkpoints with checksums: written atomically in the background, the newest two are kept.

The run's folder (`slimclr.engine.run_folder`) has `step_<steps taken>.pt`, each with `step_<...>.pt.sha256` in the
format of sha256sum, and `epoch_<epochs>.pt` for checkpoints that are kept for good.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from slimclr.errors import UserError
from slimclr.files import atomic_path, sha256, write_text

KEEP = 2
_NAME = re.compile(r"step_(\d+)\.pt")


class CheckpointManager:
    """The checkpoints of one run.

    Only one process writes; `save` returns as soon as the state is copied, and a thread waits for the disk.

    Args:
        folder: Their folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        # The checkpoint that the thread is writing; None while it has nothing to do.
        self._writing: Future[None] | None = None
        self._saved = time.monotonic()

    def due(self, minutes: float) -> bool:
        """Whether so many minutes have passed since the last save, or the beginning."""
        return time.monotonic() - self._saved > 60 * minutes

    def save(self, state: dict[str, Any], *, keep: bool = False) -> None:
        """Begin to write a checkpoint, once the one before is on the disk; then all but the newest two go.

        Args:
            state: What `torch.load(weights_only=True)` can read; it holds `step`, and `epoch` for one that is kept.
            keep: Also keep it for good, as `epoch_<epochs>.pt`.

        Raises:
            UserError: The checkpoint before could not be written.
        """
        self._saved = time.monotonic()
        self.wait()
        self._writing = self._thread.submit(self._write, _copy(state), keep)

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            UserError: It could not be written; the checkpoints before are untouched.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except (OSError, RuntimeError) as error:
                full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
                reason = "the disk is full; free space" if full else f"cannot be written ({error}); mend that"
                raise UserError(
                    f"{self.folder}: {reason} and run this stage again, it goes on from the checkpoint before"
                ) from None

    def newest(self) -> Path | None:
        """The newest whole checkpoint, or None where there is none.

        A damaged one is reported and renamed to `<name>.damaged`; the one before takes its place.

        Raises:
            UserError: There are some, and all are damaged.
        """
        paths = list_checkpoints(self.folder)
        for path in reversed(paths):
            reason = _damage(path)
            if reason is None:
                return path
            print(f"{path}: {reason}; going on from the checkpoint before", file=sys.stderr, flush=True)
            path.replace(path.with_name(f"{path.name}.damaged"))
        if paths or any(self.folder.glob("step_*.pt.damaged")):
            raise UserError(f"{self.folder}: every checkpoint is damaged; remove this folder to begin anew")
        return None

    def newest_with_origin(self, origin: str) -> Path | None:
        """The newest whole checkpoint, if its run went back to a given one before; None otherwise.

        Args:
            origin: SHA-256 of the one that it went back to.
        """
        whole = (path for path in reversed(list_checkpoints(self.folder)) if _damage(path) is None)
        newest = next(whole, None)
        return newest if newest and load_checkpoint(newest).get("origin") == origin else None

    def go_back(self, path: Path, step: int) -> None:
        """Make a checkpoint the newest: later ones are renamed to `<name>.superseded`, so that none is resumed.

        Args:
            path: A whole checkpoint, in this folder or elsewhere.
            step: Its step.
        """
        newest, digest = self.folder / f"step_{step:08d}.pt", sha256(path)
        if not newest.exists() or sha256(newest) != digest:
            _link(path, newest, digest)
        for later in list_checkpoints(self.folder):
            if int(later.stem.removeprefix("step_")) > step:
                aside, checksum = later.with_name(f"{later.name}.superseded"), _checksum_path(later)
                if checksum.exists():
                    text = checksum.read_text(encoding="utf-8").replace(later.name, aside.name)
                    write_text(_checksum_path(aside), text)
                later.replace(aside)
                checksum.unlink(missing_ok=True)
                print(f"{later}: set aside as {later.name}.superseded", file=sys.stderr, flush=True)

    def _write(self, state: dict[str, Any], keep: bool) -> None:
        path = self.folder / f"step_{state['step']:08d}.pt"
        with atomic_path(path) as part:
            with open(part, "wb") as file:
                hashing = _Hashing(file)
                try:
                    torch.save(state, cast(IO[bytes], hashing))
                except RuntimeError as error:
                    # torch says how far it came, not what the operating system refused.
                    raise hashing.error or error from None
            # Before the checkpoint has its name, so that it is never without a checksum.
            write_text(_checksum_path(path), f"{hashing.digest.hexdigest()}  {path.name}\n")
        if keep:
            _link(path, self.folder / f"epoch_{state['epoch']:05d}.pt", hashing.digest.hexdigest())
        for old in list_checkpoints(self.folder)[:-KEEP]:
            old.unlink()
            _checksum_path(old).unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Rolling checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU.

    Raises:
        UserError: It is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; name one that exists")
    reason = _damage(path)
    if reason is not None:
        raise UserError(f"{path}: {reason}; name another one")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling throws is not listed anywhere
        raise UserError(f"{path}: not a checkpoint ({' '.join(str(error).split())[:200]}); name another one") from None


def _damage(path: Path) -> str | None:
    """Why a checkpoint cannot be used; None when it is whole."""
    try:
        wanted = _checksum_path(path).read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeDecodeError):
        wanted = []
    if not wanted:
        return "its checksum is missing"
    return None if sha256(path) == wanted[0] else "damaged, its checksum does not fit"


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _link(path: Path, name: Path, digest: str) -> None:
    """Give a checkpoint a second name, with its checksum beside it first."""
    with atomic_path(name) as part:
        try:
            os.link(path, part)
        except OSError:  # a file system without hard links, or another one
            shutil.copyfile(path, part)
        write_text(_checksum_path(name), f"{digest}  {name.name}\n")


def _copy(value: Any) -> Any:
    """The state as it is now, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


class _Hashing:
    """A file whose content is hashed on the way."""

    def __init__(self, file: IO[bytes]):
        self._file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self.digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise
