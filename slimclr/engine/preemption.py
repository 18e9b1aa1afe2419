"""Pre-emption: a signal asks a run to stop. It writes a checkpoint after the current step and exits with code 75."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 75
"""EX_TEMPFAIL: stopped on request, and to be run again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_FOLDER = "SLIMCLR_EXIT_FOLDER"
"""Where processes under a launcher leave their process id and, when they were stopped, their exit code."""


class Preempted(Exception):
    """A run stopped on request, with a checkpoint."""


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
def stop_requests() -> Iterator[StopRequest]:
    """Take SIGTERM and SIGUSR1 as requests to stop, until the end of the block."""
    request = StopRequest()

    def receive(number: int, _: object) -> None:
        request.signal = signal.Signals(number).name

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    if EXIT_FOLDER in os.environ:
        # From now on the launcher may pass signals on to this process.
        (Path(os.environ[EXIT_FOLDER]) / f"{os.getpid()}.pid").touch()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code() -> int:
    """The exit code of a stopped process; under a launcher, which takes any but 0 for a crash, it is left in a file."""
    if EXIT_FOLDER not in os.environ:
        return EXIT_CODE
    (Path(os.environ[EXIT_FOLDER]) / "code").write_text(str(EXIT_CODE))
    return 0
