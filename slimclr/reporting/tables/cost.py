"""The table of the sub-networks' size and cost."""

import numpy as np
import pandas as pd

from slimclr.reporting.tables.cells import closing_notes, scaled
from slimclr.reporting.tables.table import Cell, Column, Footnotes, Table

CAPTION = (
    "Parameters and multiply-adds for one image of the backbone alone, without projection head and classifier. "
    "The shares are relative to the full width of the same architecture. "
    "Two rows for one width mean that runs counted differently."
)
COLUMNS = [
    Column("Architecture", False),
    Column("Width"),
    Column("Parameters (M)"),
    Column("Share"),
    Column("Multiply-adds (G)"),
    Column("Share"),
]


MEASURED = (
    " Measured is the median time of an image, a plain network with batch norm folded, the mean over runs; "
    "the machine is that of stage latency in the provenance."
)


def cost_table(summary: pd.DataFrame) -> Table:
    """Parameters and multiply-adds for each architecture and width, and the time that was measured."""
    times = summary[(summary["stage"] == "latency") & (summary["metric"] == "latency_ms")]
    latency = times.groupby(["arch", "width"])["value"].mean().to_dict()
    costs = summary[(summary["stage"] == "pretrain") & summary["metric"].isin(["params", "macs"])]
    wide = costs.pivot_table(index=["run", "arch", "width"], columns="metric", values="value", sort=False)
    wide = wide.reindex(columns=["params", "macs"]).reset_index().drop(columns="run").drop_duplicates()
    wide = wide.sort_values("width", key=lambda widths: -widths.astype(float), kind="stable")
    rows = []
    for arch, group in wide.groupby("arch", sort=True):
        full = group[group["width"] == "1.0"]
        rows += [
            [
                Cell(str(arch)),
                Cell(row["width"]),
                scaled(row["params"], 1e6, 2),
                _share(row["params"], full["params"]),
                scaled(row["macs"], 1e9, 3),
                _share(row["macs"], full["macs"]),
                *(
                    [Cell(f"{latency[arch, row['width']]:.3g}" if (arch, row["width"]) in latency else "")]
                    if latency
                    else []
                ),
            ]
            for row in group.to_dict("records")
        ]
    notes = closing_notes(rows, Footnotes(), empty="the run did not record it")
    caption, columns = (CAPTION + MEASURED, [*COLUMNS, Column("Measured (ms)")]) if latency else (CAPTION, COLUMNS)
    return Table("cost", "Size and cost of the sub-networks", caption, columns, rows, notes)


def _share(value: float, full: pd.Series) -> Cell:
    if full.empty or np.isnan(value) or np.isnan(full.iloc[0]):
        return Cell()
    return Cell(f"{100 * value / full.iloc[0]:.1f} %")
