"""Pre-emption: a signal asks a run to stop. It writes a checkpoint after the current step and exits with code 75."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from slimclr.workers import SIGNALS

EXIT_CODE = 75
"""EX_TEMPFAIL: stopped on request, and to be run again."""
EXIT_FOLDER = "SLIMCLR_EXIT_FOLDER"
"""Where processes under a launcher leave their process id and, when they were stopped, their exit code."""
END_WITH = "SLIMCLR_END_WITH"
"""Process ids, for instance of the shell and of Snakemake: when one of them ends, the command stops."""
GRACE_SECONDS = 15.0
"""How long a command may take to end where it is no training that has a step in hand."""


class Preempted(BaseException):
    """A run stopped on request. No Exception: what passes over errors must not pass over a stop."""


class StopRequest:
    """Whether a signal asked this process to stop; the handler fills it in.

    Attributes:
        signal: Its name; empty as long as none came.
    """

    signal: str = ""


def preempted(name: str, request: StopRequest, *, step: int, folder: Path) -> Preempted:
    """What ends a run that was asked to stop.

    Args:
        name: What is trained.
        request: This process's; another one of several may have been asked.
        step: The last step, which the checkpoint has.
        folder: Where it is.
    """
    return Preempted(
        f"{name}: asked to stop ({request.signal or 'another process was'}) and stopped after step {step} with a "
        f"checkpoint in {folder}; run this stage again, it goes on from there"
    )


@contextmanager
def stoppable(*, last: bool) -> Iterator[StopRequest]:
    """Within the block SIGTERM and SIGUSR1 raise `Preempted` where the command is, unless `stop_requests` takes them.

    The main thread may be waiting in a library that lets no Python run, as for a process group, or its end for threads:
    then another thread ends the process after `GRACE_SECONDS`. It also stops the command when a process of `END_WITH`
    ends.

    Args:
        last: The process ends after the block, so that signals are ignored from then on: one that comes while the
            interpreter ends would hide the exit code.
    """
    request = StopRequest()

    def receive(number: int, frame: FrameType | None) -> None:
        if request.signal:  # the first one is cleaning up
            return
        if _in_destructor(frame):
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
            return
        request.signal = signal.Signals(number).name
        raise Preempted(f"asked to stop ({request.signal}) and stopped; run this stage again")

    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, receive) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, _ancestors(), last), daemon=True).start()
    _tell_launcher()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)  # ends the thread


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take SIGTERM and SIGUSR1 as requests to stop, until the end of the block; one that was not met comes again."""
    request = StopRequest()

    def receive(number: int, _: object) -> None:
        request.signal = signal.Signals(number).name

    before: dict[signal.Signals, Any]
    # A step may take longer than the thread of `stoppable` waits.
    wakeup = signal.set_wakeup_fd(-1)
    before = {number: signal.signal(number, receive) for number in SIGNALS}
    _tell_launcher()
    within = callable(before[signal.SIGTERM])
    try:
        yield request
    except Preempted:
        if within:  # one more signal would take the place of what this one says
            before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
    if request.signal and within:
        signal.raise_signal(signal.Signals[request.signal])


def exit_code() -> int:
    """The exit code of a stopped process; under a launcher, which takes any but 0 for a crash, it is left in a file."""
    if EXIT_FOLDER not in os.environ:
        return EXIT_CODE
    with suppress(FileNotFoundError):  # the launcher was killed
        (Path(os.environ[EXIT_FOLDER]) / "code").write_text(str(EXIT_CODE))
    return 0


def _tell_launcher() -> None:
    """From now on the launcher may pass signals on to this process."""
    if EXIT_FOLDER in os.environ:
        with suppress(FileNotFoundError):  # the launcher was killed
            (Path(os.environ[EXIT_FOLDER]) / f"{os.getpid()}.pid").touch()


def _in_destructor(frame: FrameType | None) -> bool:
    """Whether Python would only print what is raised here, and go on."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "callback"):
            return True
        frame = frame.f_back
    return False


def _ancestors() -> list[int]:
    """Open files, readable once a process of `END_WITH` has ended. Children of this process do not look after those."""
    found = []
    for name in os.environ.pop(END_WITH, "").split():
        with suppress(OSError, ValueError, AttributeError):  # a container may have process ids of its own
            found.append(os.pidfd_open(int(name)))
    return found


def _watch(reader: int, ancestors: list[int], last: bool) -> None:
    """The thread of `stoppable`."""
    try:
        if reader not in _readable([reader, *ancestors]):
            os.kill(os.getpid(), signal.SIGTERM)
        elif not os.read(reader, 1):  # the block's end
            return
        until = time.monotonic() + GRACE_SECONDS
        while (left := until - time.monotonic()) > 0:
            if _readable([reader], left) and not os.read(reader, 4096):
                if not last:
                    return
                # What is left is the interpreter's end, which waits for threads and processes.
                time.sleep(left)
        _end_at_once()
    finally:
        for file in (reader, *ancestors):
            os.close(file)


def _readable(files: list[int], seconds: float | None = None) -> list[int]:
    """Which of the open files can be read, or have ended, once one of them can; `select` knows the first 1024 alone."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return [file for file, _ in poll.poll(None if seconds is None else 1000 * seconds)]


def _end_at_once() -> NoReturn:
    line = f"slimclr: asked to stop, but busy for {GRACE_SECONDS:.0f} seconds; ended at once, run this stage again\n"
    with suppress(OSError):
        os.write(2, line.encode())
    os._exit(exit_code())
