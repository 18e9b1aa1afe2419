"""What a check says, and how checks ask other programs."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        check: What was looked at.
        level: A failure stops a run or spoils it; a warning may be meant so.
        text: What was found.
        cure: What to do about it; empty when all is well.
    """

    check: str
    level: Level
    text: str
    cure: str = ""


@dataclass(frozen=True)
class Answer:
    """What another program said: its exit status (None: it is not here, or did not end) and its output."""

    status: int | None
    output: str

    @property
    def good(self) -> bool:
        """It ran and succeeded."""
        return self.status == 0

    @property
    def last_line(self) -> str:
        """The last line with something in it, which is where programs say why they failed."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else "no output"


def ask(command: Sequence[str], *, timeout: float = 20) -> Answer:
    """Run a program to its end.

    Args:
        command: Name and arguments; looked up on PATH.
        timeout: Seconds.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except FileNotFoundError:
        return Answer(None, f"{command[0]}: not found")
    except OSError as error:
        return Answer(None, f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, f"{command[0]}: no answer within {timeout:g} seconds")
    return Answer(done.returncode, done.stdout)


def probe(python: str, code: str, *, timeout: float = 180) -> dict[str, Any] | str:
    """What a piece of code prints as JSON, or in one line why it failed.

    It runs in a process of its own: what is broken may crash, and this process stays small.

    Args:
        python: The interpreter of the environment to look at.
        code: Prints one JSON object as its last line.
        timeout: Seconds.
    """
    answer = ask([python, "-c", code], timeout=timeout)
    if not answer.good:
        died = f"killed by signal {-answer.status}: " if answer.status is not None and answer.status < 0 else ""
        return died + answer.last_line
    try:
        return dict(json.loads(answer.last_line))
    except ValueError:
        return answer.last_line
