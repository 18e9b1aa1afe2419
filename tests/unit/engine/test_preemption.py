"""Commands that are asked to stop where no training has a step in hand, and what becomes of them without a parent."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from slimclr.engine import distributed
from slimclr.engine.preemption import Preempted, stop_requests, stoppable
from slimclr.errors import UserError
from slimclr.workers import starting_workers

ROOT = Path(__file__).parents[3]
# A command that is busy, in Python or in a call that lets no Python run.
BUSY = """
import sys, time
from slimclr import cli, engine
from slimclr.engine import preemption
preemption.GRACE_SECONDS = 1
def busy(arguments):
    print("busy", flush=True)
    {busy}
cli._run = busy
sys.exit(cli.main())
"""
IN_PYTHON = "time.sleep(60)"
# The same lock twice.
IN_A_LIBRARY = """import ctypes
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock), library.pthread_mutex_lock(lock)"""


def start(busy, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", BUSY.format(busy=busy), "extract"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def end_of(process, seconds=20):
    told = process.communicate(timeout=seconds)[1]
    return process.returncode, told.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_command_stops_wherever_it_is(number):
    process = start(IN_PYTHON)
    process.stdout.readline()
    process.send_signal(number)
    assert end_of(process) == (75, f"slimclr extract: asked to stop ({number.name}) and stopped; run this stage again")


def test_a_library_that_does_not_return_is_not_waited_for():
    process = start(IN_A_LIBRARY)
    process.stdout.readline()
    time.sleep(1)  # from the line to the lock
    process.send_signal(signal.SIGTERM)
    code, told = end_of(process)
    assert code == 75
    assert told == "slimclr: asked to stop, but busy for 1 seconds; ended at once, run this stage again"


def test_many_commands_in_one_process_leave_no_file_open():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with stoppable(last=False):
            pass
    # The threads close them.
    until = time.monotonic() + 30
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_without_the_shell_that_it_names_a_command_stops():
    with subprocess.Popen(["sleep", "60"]) as shell:
        process = start(IN_PYTHON, SLIMCLR_END_WITH=str(shell.pid))
        process.stdout.readline()
        shell.kill()
        assert end_of(process)[0] == 75


def test_a_request_that_no_step_met_comes_again():
    def command():
        with stoppable(last=False):
            with stop_requests():
                os.kill(os.getpid(), signal.SIGUSR1)
            raise AssertionError("goes on")

    with pytest.raises(Preempted, match=r"asked to stop \(SIGUSR1\)"):
        command()


def test_a_destructor_does_not_swallow_the_request():
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def command():
        with stoppable(last=False):
            Swallows()
            time.sleep(5)
            raise AssertionError("goes on")

    with pytest.raises(Preempted):
        command()


def test_a_worker_leaves_signals_to_its_parent_and_ends_with_it():
    def parent(sender):
        with starting_workers():
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            worker.start()
        sender.send(worker.pid)
        time.sleep(60)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=parent, args=(sender,))
    process.start()
    worker = receiver.recv()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker, number)
    time.sleep(0.2)
    assert Path(f"/proc/{worker}").exists()
    process.kill()
    process.join()
    until = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_processes_that_do_not_come_are_one_line(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "MEETING", timedelta(seconds=1))
    with pytest.raises(UserError, match="see why") as caught:
        distributed.launch(1, [])
    assert len(str(caught.value).splitlines()) == 1
