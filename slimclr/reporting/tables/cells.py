"""Cells that several tables share, and how numbers and times are written in them."""

from collections.abc import Hashable, Iterable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimclr.reporting.references import Reference, References
from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.table import DAGGER, MINUS, Cell, Footnotes, Note

NO_PUBLISHED_FIGURE = "no published figure could be read for this run and width, or it was not measured"

# Metric -> the rest of its row of the summary.
Metrics: TypeAlias = dict[str, dict[Hashable, Any]]


def by_width(summary: pd.DataFrame, stage: str) -> Iterable[tuple[str, str, Metrics]]:
    """Run, width and that width's metrics, runs in order, widths from the widest."""
    chosen = summary[summary["stage"] == stage]
    for run, group in chosen.groupby("run", sort=False):
        for width in sorted(group["width"].unique(), key=lambda width: -float(width)):
            rows = group[group["width"] == width].to_dict("records")
            yield str(run), width, {row["metric"]: row for row in rows}


def run_cell(run: str, reasons: Reasons, *stages: str) -> Cell:
    """A run's name, with a dagger when one of the stages behind its figures is not comparable with the paper."""
    return Cell(run, mark=DAGGER if any(stage in reasons.get(run, {}) for stage in stages) else "")


def measured(metrics: Metrics, metric: str, digits: int) -> Cell:
    """The mean over seeds, with the spread where there are several; empty where it was not measured."""
    if metric not in metrics:
        return Cell()
    row = metrics[metric]
    text = f"{row['value']:.{digits}f}"
    return Cell(f"{text} ± {row['spread']:.{digits}f}" if row["n"] > 1 else text)


def interval(metrics: Metrics, metric: str, digits: int) -> Cell:
    """The 95 % interval over the images; empty where it is not known, and for several seeds, which have a spread."""
    rows = [metrics.get(f"{metric}_{end}") for end in ("low", "high")]
    if any(row is None or row["n"] > 1 for row in rows):
        return Cell()
    return Cell(" to ".join(f"{row['value']:.{digits}f}" for row in rows if row))


def compared(references: References, metrics: Metrics, metric: str, digits: int, footnotes: Footnotes) -> list[Cell]:
    """The published figure and our difference to it; two empty cells where none is known."""
    row = metrics.get(metric)
    reference = references.find(row["run"], row["stage"], metric, row["width"]) if row else None
    if row is None or reference is None:
        return [Cell(), Cell()]
    figure = Cell(published(reference, row["width"]), footnotes.mark(reference.note))
    return [figure, Cell(signed(row["difference"], digits))]


def seeds(metrics: Metrics) -> Cell:
    """The number of seeds behind a row; the main metric has a value for each of them."""
    return Cell(str(max(row["n"] for row in metrics.values())))


def published(reference: Reference, width: str) -> str:
    """A published figure with no more digits than were published."""
    value = reference.widths[width]
    text = f"{value / 1e9:g} G" if reference.metric == "macs" else str(value)
    return f"{text} ± {reference.spread}" if reference.spread is not None else text


def closing_notes(rows: list[list[Cell]], footnotes: Footnotes, *, empty: str) -> list[Note]:
    """The notes of a table of results: what an empty cell and a dagger mean, where there are any; then the letters."""
    closing = []
    if any(not cell.text for row in rows for cell in row):
        closing.append(Note("", f"Empty cell: {empty}."))
    if any(row[0].mark == DAGGER for row in rows):
        closing.append(Note(DAGGER, "Not comparable with the paper; the reasons are in the table of that name."))
    return closing + footnotes.listed()


def signed(value: float, digits: int) -> str:
    """A number with its sign; what rounds to zero has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+") + text


def scaled(value: float, unit: float, digits: int) -> Cell:
    """A number in units of `unit`; empty for NaN."""
    return Cell() if np.isnan(value) else Cell(f"{value / unit:.{digits}f}")


def duration(seconds: float | None) -> str:
    """Seconds as `2 d 03:04:05`, without the days when there are none; empty for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def minute(timestamp: str) -> str:
    """An ISO 8601 time to the minute, for people: `2026-01-02 03:04`."""
    return timestamp[:16].replace("T", " ")
