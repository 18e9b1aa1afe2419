"""metrics.jsonl and TensorBoard beside the checkpoints, cut back to the step that training resumes from."""

import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimclr.files import write_text


class Records:
    """One JSON object per line; the same values as TensorBoard scalars, where TensorBoard is installed.

    Args:
        folder: Folder of `metrics.jsonl` and `tensorboard/`.
        step: Steps already taken; later lines of an interrupted run are dropped.
    """

    def __init__(self, folder: Path, *, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        lines = _whole_lines(self.path)
        write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in lines if line["step"] <= step))
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard", step)

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; `values` holds `step` and nested numbers, NaN and infinities become null."""
        self._file.write(json.dumps(_finite(values)) + "\n")
        self._file.flush()
        with self._boards_errors():
            for name, value in _flat(values) if self._board else ():
                self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        with self._boards_errors():
            if self._board:
                self._board.close()

    @contextmanager
    def _boards_errors(self) -> Iterator[None]:
        """Do without TensorBoard where it cannot write: what matters is in metrics.jsonl, too."""
        try:
            yield
        except OSError as error:
            self._board = None
            print(f"tensorboard: {error.strerror}; nothing more is written into it", file=sys.stderr, flush=True)


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer; None without the package."""
    folder.mkdir(exist_ok=True)
    try:
        # Here and not at the top: TensorBoard takes a second that `slimclr --help` need not pay.
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("tensorboard is not installed: records go into metrics.jsonl alone", file=sys.stderr, flush=True)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def copy_records(folder: Path, out: Path) -> None:
    """Copy TensorBoard's events to the results; metrics.jsonl is copied as a declared output by its stage."""
    target = out / "tensorboard"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "tensorboard", target)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records up to the first that is none; told, unless it is what a killed run was writing."""
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts[:-1], 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            lost = f"line {number} is damaged; the records from there on are lost, the training is not"
            print(f"{path}: {lost}", file=sys.stderr, flush=True)
            break
        lines.append(line)
    return lines


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}/")
        elif key != "step":
            rows.append((f"{prefix}{key}", value))
    return rows


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
