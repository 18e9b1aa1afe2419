"""The table of fine-tuning."""

import pandas as pd

from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.cells import by_width, closing_notes, measured, run_cell, seeds
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Accuracy on the validation images, in percent, after backbone and a new classifier were trained with the labels "
    "of some or all training images. "
    "All widths of a run's rows were trained together. "
    "No published figures stand beside it."
)
COLUMNS = [
    Column("Run", False),
    Column("Width"),
    Column("Labels (%)"),
    Column("Images"),
    Column("Top-1"),
    Column("Top-5"),
    Column("Seeds"),
]


def finetune_table(summary: pd.DataFrame, reasons: Reasons) -> Table:
    """Accuracies after fine-tuning for each run and width, with the labels that were used."""
    rows = [
        [
            run_cell(run, reasons, "pretrain", "finetune"),
            Cell(width),
            measured(metrics, "label_percent", 2),
            measured(metrics, "label_images", 0),
            measured(metrics, "top1", 2),
            measured(metrics, "top5", 2),
            seeds(metrics),
        ]
        for run, width, metrics in by_width(summary, "finetune")
    ]
    notes = closing_notes(rows, Footnotes(), empty="the run did not record it")
    return Table("finetune", "Fine-tuning", CAPTION, COLUMNS, rows, notes)
