"""The tables of the report, as values: built from frames here, laid out as HTML by the page's template."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from slimclr.reporting.references import Reference, References
from slimclr.reporting.results import Record

CSV_COLUMNS = ["run", "stage", "width", "metric", "value", "spread", "n", "published", "difference", "source"]

# Metric -> the rest of its row of the summary.
_Metrics: TypeAlias = dict[str, dict[Hashable, Any]]

_DAGGER = "†"
_MINUS = "−"
_METRIC_NAMES = {
    "top1": "Linear probe, top-1",
    "top5": "Linear probe, top-5",
    "box_ap": "COCO box AP",
    "box_ap50": "COCO box AP50",
    "mask_ap": "COCO mask AP",
    "mask_ap50": "COCO mask AP50",
    "macs": "Multiply-adds",
    "params": "Parameters",
}


class Column(NamedTuple):
    """A table's column; numbers are set to the right."""

    title: str
    numeric: bool = True


class Cell(NamedTuple):
    """A table's cell: its text, the mark of a footnote, and where it links to."""

    text: str = ""
    mark: str = ""
    url: str | None = None


class Note(NamedTuple):
    """A footnote; without a mark it speaks of the whole table."""

    mark: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table with its caption of two to four sentences.

    Attributes:
        key: Short name, for links and labels.
        title: Heading.
        caption: What is shown, in which unit, and how to read it.
        columns: One for each cell of a row. The first one's cells repeat within a group of rows.
        rows: The cells.
        notes: Footnotes in order.
    """

    key: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[Note] = field(default_factory=list)


class _Notes:
    """Collects footnotes and gives the same text the same letter."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str | None) -> str:
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        index = self.texts.index(text)
        return _letter(index)

    def listed(self) -> list[Note]:
        return [Note(_letter(index), text) for index, text in enumerate(self.texts)]


def summarise(values: pd.DataFrame, references: References) -> pd.DataFrame:
    """Average over seeds and put the published figures beside.

    Args:
        values: Long frame with `results.VALUE_COLUMNS`.
        references: The published figures.

    Returns:
        One row for each run, stage, width and metric, in the order of first appearance, with `CSV_COLUMNS`, `method`
        and `arch`. `value` is the mean over seeds, `spread` the sample standard deviation (NaN for one seed), `n` the
        number of seeds, `difference` is `value - published`.
    """
    keys = ["run", "method", "arch", "stage", "width", "metric"]
    rows = []
    for key, group in values.groupby(keys, sort=False)["value"]:
        run, method, arch, stage, width, metric = map(str, key)
        seeds = group.to_numpy(dtype=float)
        mean = float(np.mean(seeds))
        spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else np.nan
        reference = references.find(run, stage, metric, width)
        published = reference.widths[width] if reference else np.nan
        source = references.sources[reference.source].title if reference else ""
        rows.append(
            (run, stage, width, metric, mean, spread, len(seeds), published, mean - published, source, method, arch)
        )
    return pd.DataFrame(rows, columns=[*CSV_COLUMNS, "method", "arch"])


def not_comparable(records: Iterable[Record]) -> dict[str, dict[str, list[str]]]:
    """The reasons why runs are not comparable with the paper: run -> stage -> reasons.

    A reason that an earlier stage of the run gave already is not repeated.
    """
    reasons: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record.metrics.comparable:
            continue
        stages = reasons.setdefault(record.run, {})
        for reason in record.metrics.comparable_because or ["no reason was recorded"]:
            if not any(reason in listed for listed in stages.values()):
                stages.setdefault(record.stage, []).append(reason)
    return reasons


def comparability_table(reasons: dict[str, dict[str, list[str]]]) -> Table:
    """Why runs must not be compared with the paper, one row for each run and stage."""
    return Table(
        key="comparability",
        title="Not comparable with the paper",
        caption=(
            "These runs departed from the paper's setting while they ran. "
            "Their rows carry a dagger in the tables below, where a difference to a published figure must not be read "
            "as one of the method. Runs that are not listed here followed their recipes."
        ),
        columns=[Column("Run", False), Column("Stage", False), Column("Not comparable with the paper because", False)],
        rows=[
            [Cell(run), Cell(stage), Cell("; ".join(listed))]
            for run, stages in reasons.items()
            for stage, listed in stages.items()
        ],
    )


def probe_table(summary: pd.DataFrame, references: References, reasons: dict[str, dict[str, list[str]]]) -> Table:
    """Linear-probe accuracy for each run and width with the published figure and the difference."""
    notes = _Notes()
    rows = []
    for run, width, metrics in _by_width(summary, "probe"):
        rows.append(
            [
                _run_cell(run, reasons, "pretrain", "probe"),
                Cell(width),
                _measured(metrics, "top1", 2),
                *_comparison(references, metrics, run, "probe", "top1", width, 2, notes),
                _measured(metrics, "top5", 2),
                _seeds(metrics),
            ]
        )
    return Table(
        key="probe",
        title="Linear probe",
        caption=(
            "Accuracy on the validation images, in percent, of a linear classifier on the frozen backbone at each "
            "width; for supervised runs, of their own classifier. "
            "The difference is our top-1 minus the published one, in percentage points. "
            "± behind our figure is the sample standard deviation over the seeds, behind a published one the spread "
            "its source gives."
        ),
        columns=[
            Column("Run", False),
            Column("Width"),
            Column("Top-1"),
            Column("Published"),
            Column("Difference"),
            Column("Top-5"),
            Column("Seeds"),
        ],
        rows=rows,
        notes=_closing_notes(rows, notes),
    )


def gain_table(summary: pd.DataFrame, reasons: dict[str, dict[str, list[str]]]) -> Table:
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
        cells = [Cell(_signed(gains[width], 2)) if width in gains else Cell() for width in widths]
        rows.append([_run_cell(str(run), reasons, "pretrain", "probe"), *cells])
    return Table(
        key="gain",
        title="Gain over a random backbone",
        caption=(
            "Top-1 of the linear probe minus that of an untrained backbone of the same architecture and width, in "
            "percentage points. It separates what training taught from what the probe reads out of random features. "
            "Means over seeds are subtracted where there are several."
        ),
        columns=[Column("Run", False), *(Column(f"Width {width}") for width in widths)],
        rows=rows,
        notes=_closing_notes(rows, _Notes(), empty="the run has no such width, or no random backbone was probed at it"),
    )


def transfer_table(summary: pd.DataFrame, references: References, reasons: dict[str, dict[str, list[str]]]) -> Table:
    """Box and mask AP on COCO for each run and width; no rows when no run was transferred."""
    notes = _Notes()
    rows = []
    for run, width, metrics in _by_width(summary, "transfer"):
        cells = [_run_cell(run, reasons, "pretrain", "transfer"), Cell(width)]
        for kind in ("box", "mask"):
            cells.append(_measured(metrics, f"{kind}_ap", 1))
            cells += _comparison(references, metrics, run, "transfer", f"{kind}_ap", width, 1, notes)
            cells.append(_measured(metrics, f"{kind}_ap50", 1))
        rows.append([*cells, _seeds(metrics)])
    return Table(
        key="transfer",
        title="Transfer to COCO",
        caption=(
            "Mask R-CNN with each backbone, all widths trained jointly and every width evaluated by itself on val2017; "
            "AP times 100. "
            "The difference is ours minus the published figure beside it, in points of AP."
        ),
        columns=[
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
        ],
        rows=rows,
        notes=_closing_notes(rows, notes),
    )


def cost_table(summary: pd.DataFrame) -> Table:
    """Parameters and multiply-adds for each architecture and width."""
    costs = summary[(summary["stage"] == "pretrain") & summary["metric"].isin(["params", "macs"])]
    wide = costs.pivot_table(index=["run", "arch", "width"], columns="metric", values="value", sort=False)
    wide = wide.reindex(columns=["params", "macs"]).reset_index().drop(columns="run").drop_duplicates()
    wide = wide.sort_values("width", key=lambda widths: -widths.astype(float), kind="stable")
    rows = []
    for arch, group in wide.groupby("arch", sort=True):
        full = group[group["width"] == "1.0"]
        for row in group.to_dict("records"):
            rows.append(
                [
                    Cell(str(arch)),
                    Cell(row["width"]),
                    _scaled(row["params"], 1e6, 2),
                    _share(row["params"], full["params"]),
                    _scaled(row["macs"], 1e9, 3),
                    _share(row["macs"], full["macs"]),
                ]
            )
    return Table(
        key="cost",
        title="Size and cost of the sub-networks",
        caption=(
            "Parameters and multiply-adds for one image of the backbone alone, without projection head and classifier. "
            "The shares are relative to the full width of the same architecture. "
            "Two rows for one width mean that runs counted differently."
        ),
        columns=[
            Column("Architecture", False),
            Column("Width"),
            Column("Parameters (M)"),
            Column("Share"),
            Column("Multiply-adds (G)"),
            Column("Share"),
        ],
        rows=rows,
        notes=_closing_notes(rows, _Notes(), empty="the run did not record it"),
    )


def sources_table(runs: Iterable[str], references: References) -> Table:
    """Every published figure of the runs at hand, with its source."""
    notes = _Notes()
    rows = []
    for entry in (entry for run in runs for entry in references.references if entry.run == run):
        source = references.sources[entry.source]
        remarks = ["not compared: measured on another network or by another recipe"] if entry.context else []
        remarks += [entry.note] if entry.note else []
        rows.append(
            [
                Cell(entry.run),
                Cell(_METRIC_NAMES.get(entry.metric, entry.metric)),
                Cell(", ".join(f"{_published(entry, width)} at {width}" for width in entry.widths)),
                Cell(source.title, mark=notes.mark("; ".join(remarks)), url=source.url),
            ]
        )
    return Table(
        key="sources",
        title="Published figures and their sources",
        caption=(
            "Every published figure that concerns a run of this report, at the widths it was published for. "
            "What could not be read from its source is left out, never filled in from memory. "
            "Where several sources give a figure, the tables compare with the first one."
        ),
        columns=[
            Column("Run", False),
            Column("Metric", False),
            Column("Published, by width", False),
            Column("Source", False),
        ],
        rows=rows,
        notes=notes.listed(),
    )


def provenance_table(records: Iterable[Record]) -> Table:
    """Which recipe, code, machine and time stand behind each stage of each run."""
    notes = _Notes()
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
                Cell(notes.mark(versions)),
                Cell(origin.machine),
                Cell(origin.device),
                Cell(minute(origin.started)),
                Cell(duration(origin.duration_s)),
            ]
        )
    return Table(
        key="provenance",
        title="Provenance",
        caption=(
            "What produced each stage: the first twelve digits of the SHA-256 of its recipe and of its weights, and "
            "the commit of the code (a + means that files differed from it). "
            "The letters stand for the sets of package versions below. "
            "Start is in UTC; duration is that of the job that wrote the result, so a resumed stage shows its last "
            "part."
        ),
        columns=[
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
        ],
        rows=rows,
        notes=notes.listed(),
    )


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, with heading, caption and footnotes."""

    def text(cell: Cell) -> str:
        shown = cell.text.replace("|", "\\|")
        if cell.url:
            shown = f"[{shown}]({cell.url})"
        return shown + (f" [{cell.mark}]" if cell.mark else "")

    lines = [f"## {table.title}", "", table.caption, ""]
    lines.append("| " + " | ".join(column.title for column in table.columns) + " |")
    lines.append("| " + " | ".join("---:" if column.numeric else "---" for column in table.columns) + " |")
    lines += ["| " + " | ".join(text(cell) for cell in row) + " |" for row in table.rows]
    if table.notes:
        lines += ["", *(f"- [{note.mark}] {note.text}" if note.mark else f"- {note.text}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX float that needs the package booktabs."""
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.caption)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        " & ".join(_tex(column.title) for column in table.columns) + r" \\",
    ]
    previous = None
    for row in table.rows:
        same = previous is not None and row[0].text == previous
        if not same:
            lines.append(r"\midrule")
        first = "" if same else _tex(row[0].text) + _tex_mark(row[0].mark)
        others = [_tex(cell.text) + _tex_mark(cell.mark) for cell in row[1:]]
        lines.append(" & ".join([first, *others]) + r" \\")
        previous = row[0].text
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = [_tex_mark(note.mark) + _tex(note.text) for note in table.notes]
        lines.append(r"\par\smallskip\footnotesize " + r"\\ ".join(notes))
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def to_csv(summary: pd.DataFrame) -> str:
    """All figures in long form, with `CSV_COLUMNS`; an absent figure is an empty field."""
    return summary[CSV_COLUMNS].to_csv(index=False, float_format="%.10g", lineterminator="\n")


def duration(seconds: float | None) -> str:
    """Seconds as `2 d 03:04:05`, without the days when there are none; empty for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def minute(timestamp: str) -> str:
    """An ISO 8601 time to the minute, for people: `2026-01-02 03:04`."""
    return timestamp[:16].replace("T", " ")


def _by_width(summary: pd.DataFrame, stage: str) -> Iterable[tuple[str, str, _Metrics]]:
    """Run, width and that width's metrics, runs in order, widths from the widest."""
    chosen = summary[summary["stage"] == stage]
    for run, group in chosen.groupby("run", sort=False):
        for width in sorted(group["width"].unique(), key=lambda width: -float(width)):
            rows = group[group["width"] == width].to_dict("records")
            yield str(run), width, {row["metric"]: row for row in rows}


def _run_cell(run: str, reasons: dict[str, dict[str, list[str]]], *stages: str) -> Cell:
    """A run's name, with a dagger when one of the stages behind its figures is not comparable with the paper."""
    return Cell(run, mark=_DAGGER if any(stage in reasons.get(run, {}) for stage in stages) else "")


def _measured(metrics: _Metrics, metric: str, digits: int) -> Cell:
    if metric not in metrics:
        return Cell()
    row = metrics[metric]
    text = f"{row['value']:.{digits}f}"
    return Cell(f"{text} ± {row['spread']:.{digits}f}" if row["n"] > 1 else text)


def _seeds(metrics: _Metrics) -> Cell:
    """The number of seeds behind a row; the main metric has a value for each of them."""
    return Cell(str(max(row["n"] for row in metrics.values())))


def _comparison(
    references: References,
    metrics: _Metrics,
    run: str,
    stage: str,
    metric: str,
    width: str,
    digits: int,
    notes: _Notes,
) -> list[Cell]:
    """The published figure and our difference to it; two empty cells where none is known."""
    reference = references.find(run, stage, metric, width)
    if reference is None or metric not in metrics:
        return [Cell(), Cell()]
    difference = _signed(metrics[metric]["difference"], digits)
    return [Cell(_published(reference, width), notes.mark(reference.note)), Cell(difference)]


def _published(reference: Reference, width: str) -> str:
    """A published figure with no more digits than were published."""
    value = reference.widths[width]
    text = f"{value / 1e9:g} G" if reference.metric == "macs" else str(value)
    return f"{text} ± {reference.spread}" if reference.spread is not None else text


def _closing_notes(
    rows: list[list[Cell]],
    notes: _Notes,
    empty: str = "no published figure could be read for this run and width, or it was not measured",
) -> list[Note]:
    """Footnotes of a table of results: what an empty cell and a dagger mean, where there are any; then the letters."""
    closing = []
    if any(not cell.text for row in rows for cell in row):
        closing.append(Note("", f"Empty cell: {empty}."))
    if any(row[0].mark == _DAGGER for row in rows):
        closing.append(Note(_DAGGER, "Not comparable with the paper; the reasons are in the table of that name."))
    return closing + notes.listed()


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (_MINUS if value < 0 else "+") + text


def _scaled(value: float, unit: float, digits: int) -> Cell:
    return Cell() if np.isnan(value) else Cell(f"{value / unit:.{digits}f}")


def _share(value: float, full: pd.Series) -> Cell:
    if full.empty or np.isnan(value) or np.isnan(full.iloc[0]):
        return Cell()
    return Cell(f"{100 * value / full.iloc[0]:.1f} %")


def _letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letter = chr(ord("a") + index % 26)
    return letter if index < 26 else _letter(index // 26 - 1) + letter


def _tex(text: str) -> str:
    replacements = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        _MINUS: "$-$",
        "×": r"$\times$",
        _DAGGER: r"$\dagger$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
    return "".join(replacements.get(character, character) for character in text)


def _tex_mark(mark: str) -> str:
    return rf"\textsuperscript{{{_tex(mark)}}}" if mark else ""
