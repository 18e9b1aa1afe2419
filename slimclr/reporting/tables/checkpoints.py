"""The table of checkpoints that were trained elsewhere: what the authors released, and others."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from slimclr.reporting.references import References
from slimclr.reporting.results import Record
from slimclr.reporting.tables.cells import NO_PUBLISHED_FIGURE, by_width, closing_notes, compared, measured
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Note, Table

CAPTION = (
    "Networks that were trained elsewhere, at every width: accuracy on the validation images in percent, of the "
    "file's own classifier where it has one, else of a linear classifier that was trained here on its frozen backbone. "
    "The difference is our top-1 minus the published one, in percentage points. "
    "A file that is missing or is not what its hash says is named, and its run left out of everything else."
)
COLUMNS = [
    Column("Run", False),
    Column("File", False),
    Column("State", False),
    Column("Classifier", False),
    Column("Width"),
    Column("Top-1"),
    Column("Published"),
    Column("Difference"),
    Column("Top-5"),
]
# No run stands for it.
_DETECTOR = (
    "The released Mask R-CNN, slimclr_mocov2_ep800_mask_rcnn_r50_fpn_1x_78afcc6ae3.pth, is no run and not here: "
    "slimclr import --detector and slimclr evaluate --coco give its AP at every width."
)


class Absent(NamedTuple):
    """A checkpoint that was not there to be imported.

    Attributes:
        run: Directory of the run that is left out.
        file: Name of the file.
        fault: What its hash is; empty where there is no file.
        url: Page that gives it out.
    """

    run: str
    file: str
    fault: str
    url: str | None


def checkpoints_table(
    summary: pd.DataFrame, references: References, records: Iterable[Record], absent: Sequence[Absent]
) -> Table:
    """Each imported run's accuracy at every width, and the files that were not there."""
    footnotes = Footnotes()
    records = list(records)
    source = {record.run: record.metrics.source for record in records if record.metrics.stage == "import"}
    trained = {record.run: bool(record.metrics.epochs) for record in records if record.stage == "probe"}
    rows = [
        [
            Cell(run),
            Cell(source[run]),
            Cell("imported"),
            Cell("trained here" if trained[run] else "its own"),
            Cell(width),
            measured(metrics, "top1", 2),
            *compared(references, metrics, "top1", 2, footnotes),
            measured(metrics, "top5", 2),
        ]
        for run, width, metrics in by_width(summary, "probe")
        if run in source
    ]
    for run, file, fault, url in absent:
        state = Cell("refused", footnotes.mark(fault)) if fault else Cell("missing")
        rows.append([Cell(run), Cell(file, url=url), state, *[Cell()] * (len(COLUMNS) - 3)])
    notes = [Note("", _DETECTOR), *closing_notes(rows, footnotes, empty=NO_PUBLISHED_FIGURE)]
    return Table("checkpoints", "Released checkpoints", CAPTION, COLUMNS, rows, notes)
