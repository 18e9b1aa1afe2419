"""SIGTERM and SIGUSR1 at any moment: every stage ends within 30 seconds with 75, or is done, and leaves no process."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress

from tests.helpers.hostile import PATIENCE_SECONDS, READ_IMAGES, Starter, Tally, World, left_over

# Loader and workers, of the stages that read images.
LOADERS = [(loader, workers) for loader in ("torchvision", "dali") for workers in (0, 1, 4)]


def run(tally: Tally, world: World, starter: Starter, stages: list[str], *, tries: int, seed: int = 0) -> None:
    """Stop each stage so often; one after the other takes each signal, group and loader."""
    generator = random.Random(seed)
    for stage in stages:
        loaders = LOADERS if stage in READ_IMAGES else [(None, 1)]
        seconds: dict[object, float] = {}
        for number in range(tries):
            name = ("SIGTERM", "SIGUSR1")[number % 2]
            chosen = loaders[number // 2 % len(loaders)]
            recipe = {} if chosen[0] is None else {"loader": chosen[0], "workers": chosen[1]}
            folder = world.folder / f"stopped/{stage}"
            command = world.command(stage, folder, **recipe)
            shutil.rmtree(folder, ignore_errors=True)
            if chosen not in seconds:
                seconds[chosen] = starter.timed(command, folder)
                shutil.rmtree(folder)
            delay, log = generator.uniform(0, 1.05) * seconds[chosen], folder / "log"
            process = starter.start(command, log)
            process.join(delay)
            asked = time.monotonic()
            # The whole group, as Slurm does; every third time the process alone.
            send = os.kill if number % 3 == 2 else os.killpg
            if process.exitcode is None and process.pid is not None:
                with suppress(ProcessLookupError):
                    send(process.pid, getattr(signal, name))
            process.join(PATIENCE_SECONDS)
            took, left = time.monotonic() - asked, left_over(log, 5)
            process.join(5)
            case = f"{chosen} {send.__name__} after {delay:.2f} of {seconds[chosen]:.2f} s"
            told = log.read_text() if log.exists() else ""
            held = process.exitcode in (0, 75) and not left and took < PATIENCE_SECONDS and "Traceback" not in told
            tally.add(f"{name} to {stage}", case, held, f"code {process.exitcode}, {took:.1f} s, left {left}: {told}")
