"""The table of the transfer to COCO."""

import pandas as pd

from slimclr.reporting.references import References
from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.cells import (
    NO_PUBLISHED_FIGURE,
    by_width,
    closing_notes,
    compared,
    measured,
    run_cell,
    seeds,
)
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Mask R-CNN with each backbone, all widths trained jointly and every width evaluated by itself on val2017; "
    "AP times 100. "
    "The difference is ours minus the published figure beside it, in points of AP."
)
COLUMNS = [
    Column("Run", False),
    Column("Width"),
    Column("Box AP"),
    Column("Published"),
    Column("Difference"),
    Column("Box AP50"),
    Column("Mask AP"),
    Column("Published"),
    Column("Difference"),
    Column("Mask AP50"),
    Column("Seeds"),
]


def transfer_table(summary: pd.DataFrame, references: References, reasons: Reasons) -> Table:
    """Box and mask AP on COCO for each run and width; no rows when no run was transferred."""
    footnotes = Footnotes()
    rows = [
        [
            run_cell(run, reasons, "pretrain", "transfer"),
            Cell(width),
            measured(metrics, "box_ap", 1),
            *compared(references, metrics, "box_ap", 1, footnotes),
            measured(metrics, "box_ap50", 1),
            measured(metrics, "mask_ap", 1),
            *compared(references, metrics, "mask_ap", 1, footnotes),
            measured(metrics, "mask_ap50", 1),
            seeds(metrics),
        ]
        for run, width, metrics in by_width(summary, "transfer")
    ]
    notes = closing_notes(rows, footnotes, empty=NO_PUBLISHED_FIGURE)
    return Table("transfer", "Transfer to COCO", CAPTION, COLUMNS, rows, notes)


DETAIL_CAPTION = (
    "The same detectors: AP at an overlap (IoU) of 0.5 and 0.75 alone, and AP of objects of up to 32 x 32 pixels, of "
    "up to 96 x 96 and of more."
)
_DETAILS = {"ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}
DETAIL_COLUMNS = [
    Column("Run", False),
    Column("Width"),
    *(Column(f"{kind} {title}") for kind in ("Box", "Mask") for title in _DETAILS.values()),
]


def transfer_detail_table(summary: pd.DataFrame, reasons: Reasons) -> Table:
    """AP by overlap and by size of objects, for each run and width."""
    rows = [
        [
            run_cell(run, reasons, "pretrain", "transfer"),
            Cell(width),
            *(measured(metrics, f"{kind}_{name}", 1) for kind in ("box", "mask") for name in _DETAILS),
        ]
        for run, width, metrics in by_width(summary, "transfer")
    ]
    notes = closing_notes(rows, Footnotes(), empty="there is no object of that size, or it was not measured")
    return Table("transfer_detail", "Transfer by overlap and size", DETAIL_CAPTION, DETAIL_COLUMNS, rows, notes)
