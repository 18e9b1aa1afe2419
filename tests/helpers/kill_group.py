"""SIGKILL to a process in a session of its own."""

import os
import signal
from multiprocessing.process import BaseProcess


def kill_group(process: BaseProcess) -> None:
    """Kill a process with all that it started; where its session has not begun yet, it alone."""
    try:
        os.killpg(process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
