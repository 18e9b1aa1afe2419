"""What a check says, and how checks ask other programs."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    level: Literal["ok", "warning", "failure"]  # a failure stops a run or spoils it; a warning may be meant so
    check: str
    text: str
    cure: str = ""  # what to do about it; empty when all is well


ok, warning, failure = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "failure")


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
    """Run a program, looked up on PATH, to its end, for at most so many seconds."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, text=True, errors="replace", timeout=timeout, **options)
    except FileNotFoundError:
        return Answer(None, f"{command[0]}: not found")
    except OSError as error:
        return Answer(None, f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, f"{command[0]}: no answer within {timeout:g} seconds")
    return Answer(done.returncode, done.stdout)


def probe(python: str, code: str, *, timeout: float = 180) -> dict[str, Any] | str:
    """What a piece of code prints as JSON in its last line, or in one line why it failed.

    It runs in a process of its own, of this interpreter: what is broken may crash, and this process stays small.
    """
    answer = ask([python, "-c", code], timeout=timeout)
    if not answer.good:
        died = f"killed by signal {-answer.status}: " if answer.status is not None and answer.status < 0 else ""
        return died + answer.last_line
    try:
        return dict(json.loads(answer.last_line))
    except ValueError:
        return answer.last_line
