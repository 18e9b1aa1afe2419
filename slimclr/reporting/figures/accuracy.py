"""Accuracy against what a width costs: multiply-adds, measured time."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from slimclr.reporting.figures.drawing import COLOURS, INK, MARKERS, STYLE, Drawing, finish


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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.4), layout="constrained")
        axes = figure.subplots()
        runs = list(points.groupby("run", sort=False))
        for index, (run, group) in enumerate(runs):
            group = group.sort_values("value_cost")
            colour = COLOURS[index % len(COLOURS)]
            # With more runs than colours the markers still tell them apart.
            marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
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
            handles.append(_outline(INK, "o"))
            labels.append("outline: published")
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        data = points[["run", "width", "value_cost", "value"]]
        return finish(figure, key, title, data.set_axis(["run", "width", metric, "top1"], axis="columns"))


def _outline(colour: str, marker: str, *, x: float = np.nan, y: float = np.nan) -> Line2D:
    """The hollow marker of a published figure."""
    return Line2D([x], [y], color=colour, marker=marker, markersize=9.5, markerfacecolor="none", linestyle="none")


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
