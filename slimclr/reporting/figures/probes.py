"""Linear probes over their learning rates, and accuracies while a training went on."""

from itertools import cycle

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from slimclr.reporting.figures.drawing import COLOURS, STYLE, Drawing, finish
from slimclr.reporting.results import Record


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
    with matplotlib.rc_context(STYLE):
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
            colour = COLOURS[widths.index(width) % len(COLOURS)]
            axes.plot(rates, [line[rate] for rate in rates], style, color=colour, marker="o", markersize=4, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("Learning rate (log scale)")
        axes.set_ylabel("Held-out top-1 (%)")
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
        points = [(*key, rate, line[rate]) for key, line in best.items() for rate in sorted(line)]
        data = pd.DataFrame(points, columns=["layer", "width", "lr", "held_out_top1"])
        return finish(figure, f"rates_{run}", f"Linear probes of {run}: held-out top-1 over the learning rate", data)


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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        widths = sorted(chosen["width"].unique(), key=lambda width: -float(width))
        for kind, (style, suffix) in names.items():
            for width, colour in zip(widths, cycle(COLOURS)):
                line = chosen[(chosen["kind"] == kind) & (chosen["width"] == width)]
                label = f"width {width}{suffix}"
                if not line.empty:
                    axes.plot(line["epoch"], line["top1"], style, color=colour, marker=".", label=label)
        axes.set_xlabel("Epoch")
        axes.set_ylabel("Top-1 (%)")
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
        data = chosen[["kind", "width", "epoch", "top1"]]
        title = f"{stage} of {run}: top-1 of each width over the epochs"
        return finish(figure, f"validation_{stage}_{run}", title, data)
