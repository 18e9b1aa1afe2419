"""Progress of long loops: a bar on a terminal, now and then a plain line in a log file."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

Advance = Callable[..., None]
"""Called with the number of units done since the last call and, if there is one, a note to show until the next."""
PLAIN_INTERVAL_SECONDS = 10.0
STEPS = "SLIMCLR_STEPS"
"""Environment variable: a file that gets a line `[time, amount]` for every call of `advance`, for `slimclr plan`."""


class DataWait:
    """How long a loop has waited for its batches since the last `restart`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._began, self._waited = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Since the restart, above 0."""
        return max(time.perf_counter() - self._began, 1e-9)

    @property
    def share(self) -> float:
        """The part of these seconds that was waiting, from 0 to 1."""
        return min(self._waited / self.seconds, 1.0)

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each arrives counts."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - began
            yield batch


@contextmanager
def progress(description: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
    """Show how far a loop is, how fast it goes and how long it will still take, on stderr.

    Args:
        description: What is being done, for instance "extract train".
        total: Number of units in all; None when it is not known before the end.
        unit: What is being counted.

    Yields:
        `advance(amount, note="")`, to be called with the number of units done since the last call.
    """
    if sys.stderr.isatty():
        with _bar(description, total, unit) as advance:
            yield _recorded(advance)
    else:
        line = _PlainLines(description, total, unit)
        yield _recorded(line.advance)
        line.write()


def _recorded(advance: Advance) -> Advance:
    """The same, with a line in the file that `STEPS` names, if it names one."""
    path = os.environ.get(STEPS)
    if path is None:
        return advance

    def recorded(amount: int, note: str = "") -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([time.time(), amount]) + "\n")
        if amount:
            advance(amount, note)

    recorded(0)
    return recorded


@contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{_rate(task.speed or 0)} {unit}/s")

    class Bar(Progress):
        """The note has a line of its own below the bar, where there is room for it."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["note"]:
                    yield Text(task.fields["note"], style="dim")

    left = TimeRemainingColumn()
    count = TextColumn("{task.completed:,.0f}" if total is None else "{task.completed:,.0f}/{task.total:,.0f}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, Rate(), left)

    def advance(amount: int, note: str = "") -> None:
        if note:
            bar.update(task, note=note)
        bar.update(task, advance=amount)

    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, note="")
        yield advance


class _PlainLines:
    """Writes a line every ten seconds and one at the end."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done, self.note = 0, ""
        self.start = self.written = time.monotonic()

    def advance(self, amount: int, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self.written >= PLAIN_INTERVAL_SECONDS:
            self.written = now
            self.write()

    def write(self) -> None:
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        line = f"{self.description}: {self.done:,}"
        if self.total is not None:
            line += f"/{self.total:,}"
        line += f" {self.unit}, {_rate(rate)} {self.unit}/s"
        if self.total is not None and self.done < self.total and rate > 0:
            line += f", {_clock((self.total - self.done) / rate)} left"
        if self.note:
            line += f", {self.note}"
        print(line, file=sys.stderr, flush=True)


def _rate(per_second: float) -> str:
    """A rate with a decimal where whole numbers would say too little."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def _clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
