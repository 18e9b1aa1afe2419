"""The table of the linear probe."""

import pandas as pd

from slimclr.reporting.references import References
from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.cells import (
    NO_PUBLISHED_FIGURE,
    by_width,
    closing_notes,
    compared,
    interval,
    measured,
    run_cell,
    seeds,
)
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Accuracy on the validation images, in percent, of a linear classifier on the frozen backbone at each "
    "width; for supervised runs, of their own classifier. "
    "The difference is our top-1 minus the published one, in percentage points. "
    "The 95 % interval is Wilson's, of our top-1 over the validation images, for a single seed. "
    "± behind our figure is the sample standard deviation over the seeds, behind a published one the spread "
    "its source gives."
)
_INTERVAL = "95 % interval"
COLUMNS = [
    Column("Run", False),
    Column("Width"),
    Column("Top-1"),
    Column(_INTERVAL),
    Column("Published"),
    Column("Difference"),
    Column("Top-5"),
    Column("Seeds"),
]


def probe_table(summary: pd.DataFrame, references: References, reasons: Reasons) -> Table:
    """Linear-probe accuracy for each run and width with the published figure and the difference."""
    footnotes, rows = Footnotes(), []
    found = list(by_width(summary, "probe"))
    # Results of earlier versions have no intervals, several seeds a spread instead.
    intervals = {(run, width): interval(metrics, "top1", 2) for run, width, metrics in found}
    shown = any(cell.text for cell in intervals.values())
    for run, width, metrics in found:
        rows.append(
            [
                run_cell(run, reasons, "pretrain", "probe"),
                Cell(width),
                measured(metrics, "top1", 2),
                *([intervals[run, width]] if shown else []),
                *compared(references, metrics, "top1", 2, footnotes),
                measured(metrics, "top5", 2),
                seeds(metrics),
            ]
        )
    notes = closing_notes(rows, footnotes, empty=NO_PUBLISHED_FIGURE)
    columns = [column for column in COLUMNS if shown or column.title != _INTERVAL]
    return Table("probe", "Linear probe", CAPTION, columns, rows, notes)
