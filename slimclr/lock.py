"""A lock file, so that one process at a time writes a data set or trains a run."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimclr.errors import UserError

_PATIENCE_SECONDS = 10.0


@contextmanager
def exclusive_lock(path: Path, busy: str | None = None, *, patience: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the lock file `path` (flock). Child processes inherit the lock; it is freed when the last of them ends.

    Args:
        path: Created if missing, and left there.
        busy: Error message if another process holds it.
        patience: Seconds to wait for it; workers of a killed run need a moment to end.

    Raises:
        UserError: Another process still holds it after that time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + patience
        while not _lock(descriptor):
            if time.monotonic() > until:
                taken = f"{path.parent}: another process is writing this data set; wait for it or end it"
                raise UserError(busy or taken)
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        # Some network file systems have no locks: there, only Snakemake's own lock protects the folder.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True
