"""The same command twice at once: one of them does it, the other waits for it or is refused in one line."""

import random
import shutil

from tests.helpers.hostile import Starter, Tally, World, left_over, outcome


def run(tally: Tally, world: World, starter: Starter, stages: list[str], *, tries: int, seed: int = 0) -> None:
    """Start each stage so often twice, the second one at any moment of the first."""
    generator = random.Random(seed)
    for stage in stages:
        whole, folder = world.folder / f"whole/{stage}", world.folder / f"twice/{stage}"
        seconds = starter.timed(world.command(stage, whole), whole)
        for number in range(tries):
            shutil.rmtree(folder, ignore_errors=True)
            command = world.command(stage, folder)
            delay = generator.uniform(0, seconds) if number % 2 else 0.0
            logs = [folder.with_name(f"{folder.name}{which}.log") for which in (1, 2)]
            first = starter.start(command, logs[0])
            first.join(delay)
            second = starter.start(command, logs[1])
            first.join(300), second.join(300)
            told = [log.read_text() for log in logs]
            left = [process for log in logs for process in left_over(log, 5)]
            codes = (first.exitcode, second.exitcode)
            refused = [text for text, code in zip(told, codes, strict=True) if code == 2]
            lines = all(sum(": error: " in line for line in text.splitlines()) == 1 for text in refused)
            right = 0 in codes and set(codes) <= {0, 2} and lines and "Traceback" not in "".join(told)
            held = right and not left and outcome(stage, folder) == outcome(stage, whole)
            tally.add(f"two at once: {stage}", f"after {delay:.2f} s", held, f"{codes}, left {left}: {'; '.join(told)}")
            for log in logs:
                log.unlink()
