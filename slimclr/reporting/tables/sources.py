"""The table of published figures."""

from collections.abc import Iterable

from slimclr.reporting.references import Reference, References
from slimclr.reporting.tables.cells import published
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Every published figure that concerns a run of this report, at the widths it was published for. "
    "What could not be read from its source is left out, never filled in from memory. "
    "Where several sources give a figure, the tables compare with the first one."
)
COLUMNS = [
    Column("Run", False),
    Column("Metric", False),
    Column("Published, by width", False),
    Column("Source", False),
]
METRICS = {
    "top1": "Linear probe, top-1",
    "top5": "Linear probe, top-5",
    "box_ap": "COCO box AP",
    "box_ap50": "COCO box AP50",
    "mask_ap": "COCO mask AP",
    "mask_ap50": "COCO mask AP50",
    "macs": "Multiply-adds",
    "params": "Parameters",
}
NOT_COMPARED = "not compared: measured on another network or by another recipe"


def sources_table(runs: Iterable[str], references: References) -> Table:
    """Every published figure of the runs at hand, with its source."""
    footnotes = Footnotes()
    rows = []
    for entry in (entry for run in runs for entry in references.references if entry.run == run):
        source = references.sources[entry.source]
        rows.append(
            [
                Cell(entry.run),
                Cell(METRICS.get(entry.metric, entry.metric)),
                Cell(", ".join(f"{published(entry, width)} at {width}" for width in entry.widths)),
                Cell(source.title, mark=footnotes.mark(_remarks(entry)), url=source.url),
            ]
        )
    return Table("sources", "Published figures and their sources", CAPTION, COLUMNS, rows, footnotes.listed())


def _remarks(entry: Reference) -> str:
    return "; ".join(remark for remark in (NOT_COMPARED if entry.context else None, entry.note) if remark)
