"""SIGKILL of what started a command, in every phase: nothing of it is left after 30 seconds, and its lock is free."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.hostile import READ_IMAGES, Starter, Tally, World, left_over

# What stands between the killed process and the command, as in a rule's shell.
SHELL = 'export SLIMCLR_END_WITH="$$ $PPID"; trap "" TERM USR1; {command} 2>&1 | cat'


def run(tally: Tally, world: World, starter: Starter, stages: list[str], *, tries: int, seed: int = 0) -> None:
    """Kill the command's own process so often at moments spread over its whole time."""
    generator = random.Random(seed)
    for stage in stages:
        for number in range(tries):
            recipe = {}
            if stage in READ_IMAGES:
                recipe = {"loader": ("torchvision", "dali")[number % 2], "workers": (1, 4)[number // 2 % 2]}
            folder = world.folder / f"orphaned/{stage}"
            command, log = world.command(stage, folder, **recipe), folder / "log"
            shutil.rmtree(folder, ignore_errors=True)
            began = time.monotonic()
            if number < 4:
                assert starter.run(command, log) == 0, log.read_text()
                world.seconds[stage, number % 4] = time.monotonic() - began
                shutil.rmtree(folder)
            delay = (number + generator.random()) / tries * world.seconds[stage, number % 4]
            process = starter.start(command, log)
            process.join(delay)
            process.kill()
            process.join()
            left = left_over(log)
            tally.add(f"SIGKILL of {stage}: processes left", f"{recipe} after {delay:.2f} s", not left, f"left {left}")


def run_launched(tally: Tally, world: World, *, tries: int, whom: str, stage: str = "pretrain", seed: int = 0) -> None:
    """The same of a training with two processes, of which the launcher, the shell or the shell's parent is killed.

    Args:
        tally: Counts.
        world: Inputs.
        tries: How often, spread over the whole time of an undisturbed one.
        whom: launcher, shell or parent.
        stage: pretrain, probe or transfer.
        seed: Of the moments.
    """
    generator, seconds = random.Random(seed), 0.0
    for number in range(-1, tries):
        folder = world.folder / f"launched/{stage}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        arguments = world.command(stage, folder, workers=1)
        job = [sys.executable, "-m", "tests.helpers.launch_job", *arguments]
        quoted = " ".join(f"'{argument}'" for argument in job)
        with open(folder / "log", "w") as log:
            # Python between us and the shell, as Snakemake is.
            code = "import subprocess, sys; subprocess.run(sys.argv[1], shell=True, executable='/bin/bash')"
            started = [sys.executable, "-c", code, SHELL.format(command=quoted)]
            began = time.monotonic()
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            parent = subprocess.Popen(started, stdout=log, stderr=log, env=environment, start_new_session=True)
        if number < 0:
            assert parent.wait() == 0, (folder / "log").read_text()
            seconds = time.monotonic() - began
            continue
        delay = (number + generator.random()) / tries * seconds
        time.sleep(delay)
        chosen = {"parent": _is_parent, "shell": _is_shell, "launcher": _is_launcher}[whom]
        for process in _group(parent.pid):
            if chosen(process):
                os.kill(process, signal.SIGKILL)
        left = left_over(folder / "log")
        parent.wait()
        case, told = f"after {delay:.2f} of {seconds:.2f} s", (folder / "log").read_text()
        tally.add(f"SIGKILL of the {whom} of two processes of {stage}: left", case, not left, f"left {left}: {told}")


def _group(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == leader:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


def _words(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return []


def _is_parent(process: int) -> bool:
    return any("import subprocess, sys" in word for word in _words(process))


def _is_shell(process: int) -> bool:
    return _words(process)[:1] == ["/bin/bash"]


def _is_launcher(process: int) -> bool:
    return "tests.helpers.launch_job" in _words(process) and "slimclr.engine.follow" not in _words(process)
