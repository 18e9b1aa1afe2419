"""The figures of the report, drawn without a display and without global state."""

import io
import re
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from slimclr.reporting.results import Record

# Colours of medium lightness: they must stand on a white page and on a dark one.
_COLOURS = ("#3f74d8", "#cc6a1d", "#1f9470", "#b34a9e", "#8a7a1c", "#7a63d1", "#c9485b", "#5d8a99")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
# Stand-ins that `Drawing.embedded` turns into the page's own colours.
_INK, _RULE, _PAPER = "#1f2934", "#c8d0d9", "#ffffff"
# More points than this cannot be told apart at the size of the figure and would only swell the page.
_MAX_POINTS = 300

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": _PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        key: File name without its ending.
        title: What it shows, also for those who cannot see it.
        svg: The file's text.
        png: The file's bytes.
    """

    key: str
    title: str
    svg: str
    png: bytes

    @property
    def embedded(self) -> str:
        """The SVG as an element of an HTML page: of any size, in the page's colours, without ids that could clash."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r'<g id="[^"]*"', "<g", body)
        body = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", body, count=1)
        body = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", body, count=1)
        body = body.replace(_INK, "currentColor").replace(_RULE, "var(--rule)").replace(_PAPER, "none")
        return body.replace("<svg", f'<svg role="img" aria-label="{escape(self.title)}"', 1)


def accuracy_drawing(summary: pd.DataFrame) -> Drawing | None:
    """Linear-probe top-1 against multiply-adds, a line for each trained run; None without such figures.

    Args:
        summary: Frame of `summary.summarise`. Random backbones are left out: they would flatten everything else.
    """
    label = "Multiply-adds per image (log scale)"
    return _against(summary, "pretrain", "macs", label, "accuracy", "Linear-probe top-1 against multiply-adds")


def latency_drawing(summary: pd.DataFrame) -> Drawing | None:
    """The same against measured milliseconds per image."""
    label = "Milliseconds per image, measured (log scale)"
    return _against(summary, "latency", "latency_ms", label, "latency", "Linear-probe top-1 against measured time")


def _against(summary: pd.DataFrame, stage: str, metric: str, label: str, key: str, title: str) -> Drawing | None:
    """Linear-probe top-1 against a stage's metric."""
    trained = summary[summary["method"] != "random"]
    cost = trained[(trained["stage"] == stage) & (trained["metric"] == metric)]
    top1 = trained[(trained["stage"] == "probe") & (trained["metric"] == "top1")]
    points = top1.merge(cost[["run", "width", "value"]], on=["run", "width"], suffixes=("", "_cost"))
    if points.empty:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.0, 4.4), layout="constrained")
        axes = figure.subplots()
        runs = list(points.groupby("run", sort=False))
        for index, (run, group) in enumerate(runs):
            group = group.sort_values("value_cost")
            colour = _COLOURS[index % len(_COLOURS)]
            # With more runs than colours the markers still tell them apart.
            marker = _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)]
            axes.errorbar(
                group["value_cost"],
                group["value"],
                yerr=group["spread"].fillna(0) if group["spread"].notna().any() else None,
                color=colour,
                marker=marker,
                markersize=5.5,
                label=str(run),
            )
            published = group[group["published"].notna()]
            for row in published.to_dict("records"):
                axes.add_line(_outline(colour, marker, x=row["value_cost"], y=row["published"]))
        axes.autoscale_view()
        axes.set_xscale("log")
        ticks = sorted(points["value_cost"].unique())
        axes.set_xticks(_apart(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _engineering(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=False, which="minor")
        axes.set_xlabel(label)
        axes.set_ylabel("Top-1 (%)")
        handles, labels = axes.get_legend_handles_labels()
        if points["published"].notna().any():
            handles.append(_outline(_INK, "o"))
            labels.append("outline: published")
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return _finish(figure, key, title)


def training_drawing(curves: pd.DataFrame, run: str) -> Drawing | None:
    """Loss of each width and the learning rate over the epochs of one run; None without a log.

    Args:
        curves: Frame with `results.CURVE_COLUMNS`. Every seed is drawn, in its width's colour.
        run: The run.
    """
    chosen = curves[curves["run"] == run]
    if chosen.empty:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        widths = sorted(chosen["width"].unique(), key=lambda width: -float(width))
        for width, colour in zip(widths, cycle(_COLOURS)):
            label = f"width {width}"
            for _, seed in chosen[chosen["width"] == width].groupby("directory", sort=False):
                _line(losses, seed["epoch"], seed["loss"], colour=colour, label=label)
                label = ""
        full = chosen[chosen["width"] == widths[0]]
        for _, seed in full.groupby("directory", sort=False):
            _line(rates, seed["epoch"], seed["lr"], colour=_INK, label="")
        losses.set_ylabel("Loss")
        rates.set_ylabel("Learning rate")
        rates.set_xlabel("Epoch")
        figure.align_ylabels()
        figure.legend(loc="outside upper left", ncols=4, columnspacing=1.2, handlelength=1.4)
        return _finish(figure, f"training_{run}", f"Training of {run}: loss of each width and learning rate")


def rates_drawing(record: Record) -> Drawing | None:
    """Held-out top-1 over the learning rate, a line for each layer and width; None where one rate was tried.

    Of several weight decays the best counts.
    """
    tried = [one for one in record.metrics.grid if one.held_out]
    if len({one.lr for one in tried}) < 2:
        return None
    best: dict[tuple[str, str], dict[float, float]] = {}
    for one in tried:
        for width, top in (one.held_out or {}).items():
            line = best.setdefault((one.layer, width), {})
            line[one.lr] = max(top.top1, line.get(one.lr, 0.0))
    run = record.metrics.run
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        widths = sorted({width for _, width in best}, key=lambda width: -float(width))
        layers = list(dict.fromkeys(layer for layer, _ in best))
        for (layer, width), line in sorted(
            best.items(), key=lambda item: (layers.index(item[0][0]), -float(item[0][1]))
        ):
            rates = sorted(line)
            label = f"width {width}" + (f", {layer}" if len(layers) > 1 else "")
            style = ("-", "--")[layers.index(layer) % 2]
            colour = _COLOURS[widths.index(width) % len(_COLOURS)]
            axes.plot(rates, [line[rate] for rate in rates], style, color=colour, marker="o", markersize=4, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("Learning rate (log scale)")
        axes.set_ylabel("Held-out top-1 (%)")
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
        return _finish(figure, f"rates_{run}", f"Linear probes of {run}: held-out top-1 over the learning rate")


def seen_drawing(seen: pd.DataFrame, run: str, stage: str) -> Drawing | None:
    """Top-1 of each width over the epochs of one training; None where none was recorded.

    Args:
        seen: Frame of `seen.read_seen`. Neighbours' votes are dashed, for training images dotted.
        run: The directory.
        stage: pretrain or probe.
    """
    chosen = seen[(seen["run"] == run) & (seen["stage"] == stage)]
    if chosen.empty:
        return None
    names = {"val": ("-", ""), "knn_val": ("--", ", kNN"), "knn": (":", ", kNN of training images")}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        widths = sorted(chosen["width"].unique(), key=lambda width: -float(width))
        for kind, (style, suffix) in names.items():
            for width, colour in zip(widths, cycle(_COLOURS)):
                line = chosen[(chosen["kind"] == kind) & (chosen["width"] == width)]
                label = f"width {width}{suffix}"
                if not line.empty:
                    axes.plot(line["epoch"], line["top1"], style, color=colour, marker=".", label=label)
        axes.set_xlabel("Epoch")
        axes.set_ylabel("Top-1 (%)")
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
        return _finish(figure, f"validation_{stage}_{run}", f"{stage} of {run}: top-1 of each width over the epochs")


def thin(x: np.ndarray, y: np.ndarray, points: int = _MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring samples until at most `points` are left.

    Args:
        x: Positions, shape (n,).
        y: Values, shape (n,).
        points: The most samples to return.

    Returns:
        Means of x and y over runs of ceil(n / points) samples (the last run may be shorter).
    """
    size = -(-len(x) // points)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _outline(colour: str, marker: str, *, x: float = np.nan, y: float = np.nan) -> Line2D:
    """The hollow marker of a published figure."""
    return Line2D([x], [y], color=colour, marker=marker, markersize=9.5, markerfacecolor="none", linestyle="none")


def _line(axes: Axes, x: pd.Series, y: pd.Series, *, colour: str, label: str) -> None:
    # A log of a few lines (the miniature) would be next to invisible as a line alone.
    marker = "." if len(x) <= 20 else None
    xs, ys = thin(x.to_numpy(dtype=float), y.to_numpy(dtype=float))
    axes.plot(xs, ys, color=colour, label=label or None, alpha=0.9, marker=marker)


def _apart(ticks: list[float]) -> list[float]:
    """Those of the ascending positions whose labels do not run into each other on a log axis."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or tick <= kept[-1] / 1.25:
            kept.append(tick)
    return kept[::-1]


def _engineering(value: float) -> str:
    for unit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def _finish(figure: Figure, key: str, title: str) -> Drawing:
    # A date or a random id in the file would make equal inputs give different reports.
    svg, png = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Drawing(key, title, svg.getvalue(), png.getvalue())
