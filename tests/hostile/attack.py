"""What an attack is, how one is run, and when a command withstood it."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.hostile import PATIENCE_SECONDS, Starter, Tally, left_over

# What a stage writes last: it is there, or the stage is not done.
RESULTS = ("metrics.json", "weights.safetensors", "manifest.parquet", "index.html", "config.json", "*.lmdb")


@dataclass(frozen=True)
class Attack:
    """One command in bad surroundings.

    Attributes:
        kind: The row of the table that counts it.
        case: What is done to the command.
        command: `slimclr`'s arguments.
        out: Where it writes: empty before it starts, unless `around` puts something there.
        around: What is changed while it runs, and put back.
        before: Called in the command's process first.
        refused: It must end with code 2; otherwise it may also be done.
        whole: Whether what it left, done, is what it should be.
        seconds: How long it may take before it is asked to stop, which it must heed.
    """

    kind: str
    case: str
    command: list[str]
    out: Path
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    before: Callable[[], object] | None = None
    refused: bool = False
    whole: Callable[[], bool] = lambda: True
    seconds: float = 120


def run(tally: Tally, starter: Starter, attacks: Iterable[Attack]) -> None:
    """Run them one after the other, and count those that are withstood."""
    for attack in attacks:
        shutil.rmtree(attack.out, ignore_errors=True)
        log = attack.out.with_name(attack.out.name + ".log")
        log.unlink(missing_ok=True)
        with attack.around():
            process = starter.start(attack.command, log, attack.before)
            process.join(attack.seconds)
            stopped = process.exitcode is None
            if stopped and process.pid is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.join(PATIENCE_SECONDS)
            left = left_over(log, 5)
            told = log.read_text(errors="backslashreplace")
            fault = found(attack, process.exitcode, told, stopped=stopped)
        if left:
            fault = f"left {left}"
        tally.add(attack.kind, attack.case, not fault, f"{fault}: {told}")


def found(attack: Attack, code: int | None, told: str, *, stopped: bool = False) -> str:
    """What is wrong with a command's end; nothing when it withstood."""
    if "Traceback" in told:
        return f"code {code}, a traceback"
    # Carriage returns are the progress bar's.
    if not told.replace("\r", "").replace("\n", "").isprintable():
        return "unprintable characters"
    parts = [str(path) for path in attack.out.rglob("*") if ".part" in path.name]
    if code == 2:
        lines = [line for line in told.splitlines() if ": error: " in line]
        whole = [str(path) for name in RESULTS for path in attack.out.rglob(name)]
        if not lines:
            return "code 2 without a line"
        # What is done of it stays for the next try, which goes on from there.
        kept = attack.command[0] in ("extract", "convert")
        return f"half written: {parts or whole}" if whole or (parts and not kept) else ""
    if code == 75 and stopped:
        return ""
    if code == 0:
        wrong = "another result" if not attack.whole() else ""
        return "not refused" if attack.refused else f"half written: {parts}" if parts else wrong
    return f"code {code}"


def limit_memory(mebibytes: int) -> None:
    """This process may take so much more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (mebibytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
