"""SIGKILL at random moments, then run again to the end: the same result as an undisturbed run's."""

import random
import shutil

from tests.helpers.hostile import Starter, Tally, World, left_over, outcome
from tests.helpers.kill_group import kill_group


def run(tally: Tally, world: World, starter: Starter, stages: list[str], *, tries: int, seed: int = 0) -> None:
    """Kill each stage so often, the whole process group, and go on in the same folder."""
    generator = random.Random(seed)
    for stage in stages:
        whole, folder = world.folder / f"whole/{stage}", world.folder / f"killed/{stage}"
        seconds = starter.timed(world.command(stage, whole), whole)
        for _ in range(tries):
            shutil.rmtree(folder, ignore_errors=True)
            command, log = world.command(stage, folder), folder / "log"
            process = starter.start(command, log)
            delay = generator.uniform(0, seconds)
            process.join(delay)
            kill_group(process)
            process.join()
            left = left_over(log, 5)
            code, told = starter.run(command, log), log.read_text()
            equal = code == 0 and outcome(stage, folder) == outcome(stage, whole)
            tally.add(f"kills of {stage}", f"after {delay:.2f} of {seconds:.2f} s", equal and not left, told)
