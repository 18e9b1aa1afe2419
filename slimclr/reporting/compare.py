"""Two folders of results side by side: figures with their differences, and what differs in the recipes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimclr.config import read_yaml
from slimclr.errors import UserError
from slimclr.reporting.layouts import to_markdown
from slimclr.reporting.results import StageMetrics, read_metrics
from slimclr.reporting.tables.cells import signed
from slimclr.reporting.tables.table import Cell, Column, Note, Table
from slimclr.reporting.values import is_number

STAGES = ("pretrain", "probe", "quick", "finetune", "transfer", "latency")
COLUMNS = [
    Column("Run", False),
    Column("Stage", False),
    Column("Width"),
    Column("Metric", False),
    Column("A"),
    Column("B"),
    Column("B - A"),
    Column("95 % interval"),
]
CAPTION = (
    "A is {}, B is {}. The interval is Newcombe's hybrid score interval of two accuracies' difference (1998, method "
    "10), as of independent images; on the same images it is wider than need be."
)


def compare(a: Path, b: Path, *, runs: list[str] | None = None) -> str:
    """The comparison as Markdown.

    Args:
        a: A folder of results, with pretrain/, probe/, ...
        b: Another one.
        runs: Directories to compare; None: all that both have.

    Raises:
        UserError: No such folder, no run in both, a run that one lacks, or a metrics.json that cannot be read.
    """
    found = [_runs(folder) for folder in (a, b)]
    chosen = runs or [run for run in found[0] if run in found[1]]
    for folder, there in zip((a, b), found, strict=True):
        for run in chosen:
            if run not in there:
                raise UserError(f"{folder}: no run {run}; there are {', '.join(there) or 'none'}")
    if not chosen:
        raise UserError(f"{a} and {b}: no run is in both: {', '.join(found[0])}; {', '.join(found[1])}")
    tables = [
        Table("figures", "Figures", CAPTION.format(a, b), COLUMNS, _figures(a, b, chosen), _missing(a, b, chosen)),
        _recipes(a, b, chosen),
    ]
    return "\n".join(to_markdown(table) for table in tables if table.rows or table.notes)


def newcombe(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a difference of two shares (Newcombe 1998, Statistics in Medicine 17, 873-890, method 10).

    Args:
        one: A share and the ends of its Wilson interval.
        other: Another one's; the difference is this minus the first.
    """
    (p, low, high), (q, other_low, other_high) = one, other
    difference = q - p
    return (
        difference - math.hypot(q - other_low, high - p),
        difference + math.hypot(other_high - q, p - low),
    )


def _runs(folder: Path) -> list[str]:
    if not (folder / "pretrain").is_dir():
        raise UserError(f"{folder}: no folder of results: it has no pretrain/; name a config's `work`/results")
    return sorted(path.parent.name for path in folder.glob("pretrain/*/metrics.json"))


def _read(folder: Path, stage: str, run: str) -> StageMetrics | None:
    return read_metrics(folder, stage, run) if (folder / stage / run / "metrics.json").exists() else None


def _figures(a: Path, b: Path, runs: list[str]) -> list[list[Cell]]:
    rows = []
    for run in runs:
        for stage in STAGES:
            one, other = _read(a, stage, run), _read(b, stage, run)
            if one is None or other is None:
                continue
            for width in sorted({*one.widths, *other.widths}, key=lambda width: -float(width)):
                figures, others = one.widths.get(width, {}), other.widths.get(width, {})
                for metric in dict.fromkeys((*figures, *others)):
                    values = [entries.get(metric) for entries in (figures, others)]
                    if not metric.endswith(("_low", "_high")) and any(map(is_number, values)):
                        cells = _compared(metric, figures, others)
                        rows.append([Cell(run), Cell(stage), Cell(width), Cell(metric), *map(Cell, cells)])
    return rows


def _compared(metric: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Both figures, their difference and its interval; empty where there is none."""
    a, b = (entries.get(metric) if is_number(entries.get(metric)) else None for entries in (one, other))
    shown = ["" if value is None else f"{value:.6g}" for value in (a, b)]
    if a is None or b is None:
        return [*shown, "", ""]
    difference = f"{b - a:.3g}" if abs(b - a) >= 1e3 else signed(b - a, 2)
    ends = [entries.get(f"{metric}_{end}") for entries in (one, other) for end in ("low", "high")]
    if not all(map(is_number, ends)):
        return [*shown, difference, ""]
    numbers = [float(end) for end in ends if end is not None]
    low, high = newcombe((a, *numbers[:2]), (b, *numbers[2:]))
    return [*shown, difference, f"{signed(low, 2)} to {signed(high, 2)}"]


def _missing(a: Path, b: Path, runs: list[str]) -> list[Note]:
    """Which stages one of them lacks."""
    notes = []
    for run in runs:
        for stage in STAGES:
            lack = [folder for folder in (a, b) if not (folder / stage / run / "metrics.json").exists()]
            if len(lack) == 1:
                notes.append(Note("", f"{run}: {lack[0]} has no {stage}."))
    return notes


def _recipes(a: Path, b: Path, runs: list[str]) -> Table:
    """The keys of the resolved recipes that differ."""
    rows, notes = [], []
    for run in runs:
        found = [_recipe(folder, run) for folder in (a, b)]
        kinds = [kind for kind in ("recipe", "pretrain") if all(kind in recipes for recipes in found)]
        if not kinds:
            notes.append(Note("", f"{run}: its recipe is not in both; a report beside the results gives it."))
            continue
        one, other = (dict(_flat(recipes[kinds[0]])) for recipes in found)
        rows += [
            [Cell(run), Cell(key), Cell(one.get(key, "")), Cell(other.get(key, ""))]
            for key in dict.fromkeys((*one, *other))
            if one.get(key) != other.get(key)
        ]
        if kinds[0] == "pretrain":
            notes.append(Note("", f"{run}: pre-training alone is compared; a report beside it gives the rest."))
    columns = [Column(title, False) for title in ("Run", "Key", "A", "B")]
    caption = "What differs in the resolved recipes; an empty cell is a key that is not there."
    return Table("recipes", "Recipes", caption, columns, rows, notes)


def _recipe(folder: Path, run: str) -> dict[str, dict[str, Any]]:
    """The whole recipe, which a report has, and pre-training's, which lies beside the weights; those that are there."""
    files = {"recipe": folder / "report/recipes" / f"{run}.yaml", "pretrain": folder / "pretrain" / run / "config.yaml"}
    found = {kind: read_yaml(file) for kind, file in files.items() if file.is_file()}
    return {kind: {"pretrain": recipe} if kind == "pretrain" else recipe for kind, recipe in found.items()}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, str(value))]
