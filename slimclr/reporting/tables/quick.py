"""The table of the quick probes."""

import re

import pandas as pd

from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.cells import by_width, closing_notes, measured, run_cell, seeds
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Not the paper's protocol, so nothing published stands beside it: accuracy on the validation images, in percent, "
    "of classifiers on the frozen backbone's features of centre crops. "
    "kNN is the top-1 of the k nearest training images, whose votes weigh exp(cosine / t). "
    "Ridge is least squares on one-hot targets; its penalty was chosen on held-out training images."
)
_KNN = re.compile(r"knn_top1_k(\d+)_t(.+)")
_OTHERS = {
    "ridge_top1": "Ridge top-1",
    "ridge_top5": "Ridge top-5",
    "logistic_top1": "Logistic top-1",
    "logistic_top5": "Logistic top-5",
}


def quick_table(summary: pd.DataFrame, reasons: Reasons) -> Table:
    """Accuracies of nearest neighbours, ridge and logistic regression for each run and width."""
    found = set(summary[summary["stage"] == "quick"]["metric"])
    settings = sorted((float(match[2]), int(match[1]), metric) for metric in found if (match := _KNN.fullmatch(metric)))
    figures = {metric: f"kNN k {k}, t {t:g}" for t, k, metric in settings}
    figures |= {metric: title for metric, title in _OTHERS.items() if metric in found}
    rows = [
        [
            run_cell(run, reasons, "pretrain", "quick"),
            Cell(width),
            *(measured(metrics, metric, 2) for metric in figures),
            seeds(metrics),
        ]
        for run, width, metrics in by_width(summary, "quick")
    ]
    columns = [Column("Run", False), Column("Width"), *(Column(title) for title in figures.values()), Column("Seeds")]
    notes = closing_notes(rows, Footnotes(), empty="it was not measured for this run")
    return Table("quick", "Quick probes", CAPTION, columns, rows, notes)
