"""What this project claims on a GPU, measured on the one that is here: at most eight minutes, part by part.

    python -m benchmarks.gpu_proof [--out gpu-proof] [--parts steps_mocov2 memory] [--minutes 8] [--quick]

Needs torch, torchvision, numpy, Pillow, safetensors and pydantic; a part that needs more is skipped and says so. Every
part is a process with a time limit of its own: one that fails or is cut off leaves the others, and what it had measured
by then. Into the folder go `<part>.json` (written after every measurement), `logs/<part>.log`, and `summary.json` and
`summary.md` (written after every part). `--quick` shows on any machine, also on a CPU, that all parts run. Exit code 1:
a part failed.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.proof_parts import run
from slimclr.files import write_json, write_text

# Seconds of each part at most, in the order in which they run: 8 minutes in all.
LIMITS = {
    "machine": 15,
    "tests": 50,
    "steps_mocov2": 60,
    "training": 60,
    "memory": 50,
    "frozen": 25,
    "steps_mocov3": 50,
    "steps_simclr": 45,
    "profile": 20,
    "compiled": 60,
    "graphs": 20,
    "data": 25,
}
# A part leaves out what it has no time for; only one that hangs is killed.
_GRACE = 5.0


def _in_child(name: str, folder: Path, seconds: float, quick: bool) -> None:
    """Run a part with its output in the log."""
    os.setsid()
    log = os.open(folder / "logs" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    run(name, folder, seconds, quick=quick)


def run_part(name: str, folder: Path, seconds: float, *, quick: bool) -> dict[str, Any]:
    """Run one part; how it ended."""
    began = time.monotonic()
    # A fork has imported everything; this process never touches the GPU.
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(name, folder, seconds, quick))
    child.start()
    try:
        child.join(seconds + _GRACE)
    finally:
        alive = child.is_alive()
        if alive and child.pid is not None:
            # The part and what it has started.
            os.killpg(child.pid, signal.SIGKILL)
            child.join()
    result = json.loads(path.read_text()) if (path := folder / f"{name}.json").exists() else {}
    state = (
        f"cut off after {seconds:.0f} s" if alive else _state(child.exitcode, result, folder / "logs" / f"{name}.log")
    )
    return {"state": state, "seconds": round(time.monotonic() - began, 1), "result": result}


def _state(code: int | None, result: dict[str, Any], log: Path) -> str:
    """How a part ended, in words."""
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else f'exit code {code}'}"
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    entries = {key: value for key, value in result.items() if isinstance(value, dict)}
    wrong = [key for key, value in entries.items() if "failed" in value]
    missing = [key for key, value in entries.items() if "not_measured" in value]
    state = f"failed: {', '.join(wrong)}" if wrong else "done"
    return state + (f"; not measured: {', '.join(missing)}" if missing else "")


def markdown(parts: dict[str, dict[str, Any]]) -> str:
    """The summary as a page."""
    lines = ["# GPU proof", "", "| part | seconds | what became of it |", "| --- | ---: | --- |"]
    lines += [f"| {name} | {part['seconds']} | {part['state']} |" for name, part in parts.items()]
    for name, part in parts.items():
        if part["result"]:
            lines += ["", f"## {name}", "", "```json", json.dumps(part["result"], indent=1), "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-proof"), help="folder for results and logs")
    parser.add_argument(
        "--parts", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART", help=" ".join(LIMITS)
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together (default 8)")
    parser.add_argument("--quick", action="store_true", help="small networks: does it run?")
    options = parser.parse_args()
    folder, until = options.out.absolute(), time.monotonic() + 60 * options.minutes
    parts: dict[str, dict[str, Any]] = {}
    # A stop leaves what is written; `run_part` ends the part that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        (folder / f"{name}.json").unlink(missing_ok=True)
    for name in options.parts:
        left = until - time.monotonic() - _GRACE
        # A smoke test is about whether it runs, on however slow a machine.
        seconds = left if options.quick else min(LIMITS[name], left)
        if seconds < 3:
            parts[name] = {"state": "not begun: no time left", "seconds": 0, "result": {}}
        else:
            parts[name] = run_part(name, folder, seconds, quick=options.quick)
        print(f"{name}: {parts[name]['state']} ({parts[name]['seconds']} s)", flush=True)
        write_json(folder / "summary.json", {"quick": options.quick, "parts": parts})
        write_text(folder / "summary.md", markdown(parts))
    print(f"summary: {folder / 'summary.md'}")
    return int(any(part["state"].startswith("failed") for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
