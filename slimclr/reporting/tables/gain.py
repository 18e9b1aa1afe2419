"""The table of what training added to a random backbone."""

import pandas as pd

from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.cells import closing_notes, run_cell, signed
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Top-1 of the linear probe minus that of an untrained backbone of the same architecture and width, in "
    "percentage points. It separates what training taught from what the probe reads out of random features. "
    "Means over seeds are subtracted where there are several."
)
EMPTY = "the run has no such width, or no random backbone was probed at it"


def gain_table(summary: pd.DataFrame, reasons: Reasons) -> Table:
    """What training added: top-1 minus that of the random backbone of the same architecture and width.

    The table has no rows when no random backbone was probed.
    """
    top1 = summary[(summary["stage"] == "probe") & (summary["metric"] == "top1")]
    is_random = top1["method"] == "random"
    floor = {(row["arch"], row["width"]): row["value"] for row in top1[is_random].to_dict("records")}
    trained = top1[~is_random] if floor else top1[:0]
    widths = sorted(trained["width"].unique(), key=lambda width: -float(width))
    rows = []
    for run, group in trained.groupby("run", sort=False):
        gains = {
            row["width"]: row["value"] - floor[row["arch"], row["width"]]
            for row in group.to_dict("records")
            if (row["arch"], row["width"]) in floor
        }
        cells = [Cell(signed(gains[width], 2)) if width in gains else Cell() for width in widths]
        rows.append([run_cell(str(run), reasons, "pretrain", "probe"), *cells])
    columns = [Column("Run", False), *(Column(f"Width {width}") for width in widths)]
    notes = closing_notes(rows, Footnotes(), empty=EMPTY)
    return Table("gain", "Gain over a random backbone", CAPTION, columns, rows, notes)
