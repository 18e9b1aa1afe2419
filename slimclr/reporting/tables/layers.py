"""The table of the linear probes' layers and learning rates."""

from slimclr.reporting.probes import Top
from slimclr.reporting.results import Record
from slimclr.reporting.tables.table import Cell, Column, Table

CAPTION = (
    "Linear classifiers that were trained side by side on the same frozen features: a layer for each width "
    "(switchable), or one that the widths share (slimmable). "
    "Learning rate and weight decay were chosen on held-out training images, never on the validation images, whose "
    "top-1 in percent is shown. "
    "Beside it stands the top-1 with the recipe's own rate."
)
COLUMNS = [
    Column("Run", False),
    Column("Layer", False),
    Column("Width"),
    Column("Top-1"),
    Column("Learning rate"),
    Column("Weight decay"),
    Column("Top-1, recipe's rate"),
    Column("Held-out top-1"),
]


def layers_table(records: list[Record]) -> Table:
    """Every probe with a choice of layers or rates: each layer's accuracy by width, and what was chosen."""
    rows = []
    for metrics in (record.metrics for record in records):
        held_out = {(one.layer, one.lr, one.weight_decay): one.held_out for one in metrics.grid}
        for name, layer in metrics.layers.items():
            for width in sorted(layer.widths, key=lambda width: -float(width)):
                choice = layer.chosen.get(width)
                kept = held_out.get((name, choice.lr, choice.weight_decay)) if choice else None
                rows.append(
                    [
                        Cell(metrics.run),
                        Cell(name),
                        Cell(width),
                        _top1(layer.widths, width),
                        Cell(f"{choice.lr:g}" if choice else ""),
                        Cell(f"{choice.weight_decay:g}" if choice else ""),
                        Cell("diverged") if layer.published is None else _top1(layer.published, width),
                        _top1(kept or {}, width),
                    ]
                )
    return Table("layers", "Linear probe: layers and learning rates", CAPTION, COLUMNS, rows)


def _top1(accuracies: dict[str, Top], width: str) -> Cell:
    """A width's top-1; empty where there is none."""
    return Cell(f"{accuracies[width].top1:.2f}" if width in accuracies else "")
