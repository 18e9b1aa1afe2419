"""What loader workers and process pools do about signals and about their parent's end."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.util import register_after_fork
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What asks a command to stop."""


class _Forking:
    """While it lives, processes that multiprocessing forks are this process's workers."""

    def __init__(self) -> None:
        self.parent = os.getpid()


@contextmanager
def starting_workers() -> Iterator[None]:
    """Start worker processes in this block: forked ones are workers from their first moment on (`become_worker`).

    Slurm signals every process of a job. A worker that a signal ended would be an error of the training, which has yet
    to write its checkpoint; ended while it holds a queue's lock, it would keep the others waiting for ever.

    Processes that are spawned call `become_worker` themselves; until then they hold these signals back.
    """
    forking = _Forking()
    register_after_fork(forking, lambda forking: become_worker(forking.parent))
    # Here, too: half begun, a loader cannot be ended in order.
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: held.append(number)) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for received in held[:1]:
            signal.raise_signal(received)


def iterate(loader: Iterable[T]) -> Iterator[T]:
    """As `iter`, of a DataLoader, which starts its workers then."""
    with starting_workers():
        return iter(loader)


def become_worker(parent: int) -> None:
    """Called first in a worker process: only its parent ends it, by SIGTERM or by its own end.

    Args:
        parent: The parent's process id.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.set_wakeup_fd(-1)  # forked, it has the parent's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    end_with_parent(parent)
    sys.excepthook = _tell
    threading.Thread(target=_end_when_told, args=(parent,), daemon=True).start()


def end_with_parent(parent: int) -> None:
    """Called in a child process: it is killed when its parent ends.

    Args:
        parent: The parent's process id.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what a library's thread fails with, except that a stopping parent no longer takes what it asked for."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_when_told(parent: int) -> None:
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == parent:
            os._exit(0)
