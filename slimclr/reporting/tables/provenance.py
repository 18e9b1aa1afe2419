"""The table of what stands behind each result."""

from collections.abc import Iterable

from slimclr.reporting.results import Record
from slimclr.reporting.tables.cells import duration, minute
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "What produced each stage: the first twelve digits of the SHA-256 of its recipe and of its weights, and "
    "the commit of the code (a + means that files differed from it). "
    "The letters stand for the sets of package versions below. "
    "Start is in UTC; duration is that of the job that wrote the result, so a resumed stage shows its last "
    "part."
)
COLUMNS = [
    Column("Directory", False),
    Column("Stage", False),
    Column("Recipe", False),
    Column("Weights", False),
    Column("Commit", False),
    Column("Versions", False),
    Column("Machine", False),
    Column("Device", False),
    Column("Start", False),
    Column("Duration"),
]


def provenance_table(records: Iterable[Record]) -> Table:
    """Which recipe, code, machine and time stand behind each stage of each run."""
    footnotes = Footnotes()
    rows = []
    for record in records:
        metrics, origin = record.metrics, record.metrics.provenance
        versions = ", ".join(f"{package} {version}" for package, version in origin.versions.items())
        rows.append(
            [
                Cell(metrics.run),
                Cell(metrics.stage),
                Cell((metrics.recipe_sha256 or "")[:12]),
                Cell((metrics.weights_sha256 or "")[:12]),
                Cell(origin.git_commit or ""),
                Cell(footnotes.mark(versions)),
                Cell(origin.machine),
                Cell(origin.device),
                Cell(minute(origin.started)),
                Cell(duration(origin.duration_s)),
            ]
        )
    return Table("provenance", "Provenance", CAPTION, COLUMNS, rows, footnotes.listed())
