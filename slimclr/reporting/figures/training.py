"""What a training did: losses and learning rate, and how the widths' gradients of the shared weights compare."""

from collections.abc import Iterable
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimclr.reporting.figures.drawing import COLOURS, INK, STYLE, Drawing, finish
from slimclr.reporting.logged import GRADIENT_COLUMNS

# More points than this cannot be told apart at the size of the figure and would only swell the page.
_MAX_POINTS = 300
_INCHES = 5.2


def training_drawing(curves: pd.DataFrame, run: str) -> Drawing | None:
    """Loss of each width and the learning rate over the epochs of one run; None without a log.

    A width has axes of its own: its weight scales its loss, and would flatten the others.

    Args:
        curves: Frame with `results.CURVE_COLUMNS`. Every seed is drawn, in its width's colour.
        run: The run.
    """
    chosen = curves[curves["run"] == run]
    if chosen.empty:
        return None
    widths = _from_the_widest(chosen["width"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_INCHES, 1.0 + 1.15 * len(widths)), layout="constrained")
        *losses, rates = figure.subplots(len(widths) + 1, 1, sharex=True)
        for axes, width, colour in zip(losses, widths, cycle(COLOURS)):
            for _, seed in chosen[chosen["width"] == width].groupby("directory", sort=False):
                _line(axes, seed["epoch"], seed["loss"], colour=colour)
            axes.set_ylabel(f"Loss, {width}", color=colour)
        for _, seed in chosen[chosen["width"] == widths[0]].groupby("directory", sort=False):
            _line(rates, seed["epoch"], seed["lr"], colour=INK)
        rates.set_ylabel("Rate")
        rates.set_xlabel("Epoch")
        figure.align_ylabels()
        data = chosen.melt(["directory", "width", "epoch"], ["loss", "lr"], "drawn", "value")
        title = f"Training of {run}: loss of each width and learning rate"
        return finish(figure, f"training_{run}", title, data[["drawn", "width", "directory", "epoch", "value"]])


def gradients_drawing(gradients: pd.DataFrame, directory: str) -> Drawing | None:
    """Gradient imbalance and divergence over the epochs of one training; None where they were not recorded.

    Args:
        gradients: Frame of `logged.read_logged`.
        directory: The training's.
    """
    chosen = gradients[gradients["directory"] == directory]
    if chosen.empty:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 * _INCHES, 5.6), layout="constrained")
        (norms, ratios), (cosines, values) = figure.subplots(2, 2, sharex=True)
        _lines(norms, chosen, {"norm_used": "-", "norm_rest": "--"}, "Norm: its weights (line), the rest (dashed)")
        _lines(ratios, chosen, {"ratio": "-"}, "Norm of its weights / norm of the rest")
        _lines(cosines, chosen, {"cosine": "-"}, "Cosine between two widths' gradients")
        _lines(values, chosen, {"singular_1": "-", "singular_2": "--"}, "Last layer's singular values")
        for axes in (norms, values):
            axes.set_yscale("log")
        cosines.axhline(0, color=INK, linewidth=0.8)
        for axes in (cosines, values):
            axes.set_xlabel("Epoch")
        title = f"Gradients of {directory}: norms by width, their ratio, cosines between widths, singular values"
        return finish(figure, f"gradients_{directory}", title, chosen[GRADIENT_COLUMNS[1:]])


def _lines(axes: Axes, chosen: pd.DataFrame, kinds: dict[str, str], label: str) -> None:
    """A colour for each width or pair of widths, a style for each kind."""
    found = chosen[chosen["kind"].isin(kinds)]
    colours = dict(zip(dict.fromkeys(found["widths"]), cycle(COLOURS)))
    for (kind, widths), line in found.groupby(["kind", "widths"], sort=False):
        label_of = str(widths) if kind == next(iter(kinds)) else ""
        _line(axes, line["epoch"], line["value"], colour=colours[widths], style=kinds[str(kind)], label=label_of)
    axes.set_title(label, fontsize=9, loc="left")
    if any(colours):
        axes.legend(ncols=2, columnspacing=1.0, handlelength=1.2, fontsize=8)


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


def _line(
    axes: Axes,
    x: pd.Series,
    y: pd.Series,
    *,
    colour: str,
    style: str = "-",
    label: str = "",
) -> None:
    # A log of a few lines (the miniature) would be next to invisible as a line alone.
    marker = "." if len(x) <= 20 else None
    xs, ys = thin(x.to_numpy(dtype=float), y.to_numpy(dtype=float))
    axes.plot(xs, ys, style, color=colour, label=label or None, alpha=0.9, marker=marker)


def _from_the_widest(widths: Iterable[str]) -> list[str]:
    return sorted(set(widths), key=lambda width: -float(width))
