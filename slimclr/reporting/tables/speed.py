"""The table of how fast trainings ran."""

from statistics import median

import numpy as np
import pandas as pd

from slimclr.reporting.results import Record
from slimclr.reporting.tables.cells import closing_notes, duration
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Pre-training as its log has it: images per second over all processes (median of the log's lines), the share of "
    "the time that the network waited for data (mean), and the greatest memory of one process. "
    "Time is that of the job that wrote the result, so a resumed training shows its last part."
)
COLUMNS = [
    Column("Directory", False),
    Column("Device", False),
    Column("Images/s"),
    Column("Waiting for data"),
    Column("Memory (GB)"),
    Column("Time"),
]


def speed_table(records: list[Record], logged: pd.DataFrame) -> Table:
    """Rate, waiting and memory of each training.

    Args:
        records: One for each stage of each directory.
        logged: Frame with `results.RATE_COLUMNS`.
    """
    rows = []
    for record in records:
        lines = logged[logged["directory"] == record.metrics.run]
        if record.metrics.stage != "pretrain" or lines.empty:
            continue
        rate, wait, memory = (lines[column].dropna() for column in ("images_per_s", "data_wait", "memory_mb"))
        rows.append(
            [
                Cell(record.metrics.run),
                Cell(record.metrics.provenance.device),
                Cell(f"{median(rate):,.1f}" if len(rate) else ""),
                Cell(f"{100 * float(np.mean(wait)):.1f} %" if len(wait) else ""),
                Cell(f"{memory.max() / 1000:.1f}" if len(memory) else ""),
                Cell(duration(record.metrics.provenance.duration_s)),
            ]
        )
    notes = closing_notes(rows, Footnotes(), empty="the run did not record it")
    return Table("speed", "Speed of pre-training", CAPTION, COLUMNS, rows, notes)
