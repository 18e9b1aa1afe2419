"""The table of reasons why runs are not comparable with the paper."""

from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.table import Cell, Column, Table

CAPTION = (
    "These runs departed from the paper's setting while they ran. "
    "Their rows carry a dagger in the tables below, where a difference to a published figure must not be read "
    "as one of the method. Runs that are not listed here followed their recipes."
)
COLUMNS = [Column("Run", False), Column("Stage", False), Column("Not comparable with the paper because", False)]


def comparability_table(reasons: Reasons) -> Table:
    """Why runs must not be compared with the paper, one row for each run and stage."""
    rows = [
        [Cell(run), Cell(stage), Cell("; ".join(listed))]
        for run, stages in reasons.items()
        for stage, listed in stages.items()
    ]
    return Table("comparability", "Not comparable with the paper", CAPTION, COLUMNS, rows)
