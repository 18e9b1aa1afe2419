"""Accuracies as `slimclr evaluate` writes and prints them."""

from collections.abc import Mapping, Sequence
from typing import Any

from slimclr.probe.evaluation import Counts
from slimclr.statistics import with_intervals

_LOWEST = 5


def values_of(counts: Counts, *, seconds: Mapping[float, float], further: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Accuracies of every width with their 95 % intervals, for metrics.json and the terminal.

    Args:
        counts: How often each width was right.
        seconds: How long each width computed.
        further: Widths that were never trained.
    """
    total = int(counts.images.sum())
    return {
        str(width): {
            **with_intervals(percent, total),
            "trained": width not in further,
            "images_per_s": round(total / seconds[width], 1),
        }
        for width, percent in counts.percent().items()
    }


def values_by_class(counts: Counts, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracies in percent by class, of those that have images."""
    values = {}
    for number, name in enumerate(names):
        images = counts.images[number].item()
        if images:
            values[name] = {"images": int(images)} | {
                str(width): {
                    "top1": round(100 * counts.top1[width][number].item() / images, 4),
                    "top5": round(100 * counts.top5[width][number].item() / images, 4),
                }
                for width in counts.top1
            }
    return values


def show(values: dict[str, dict[str, Any]], counts: Counts, *, rate: float, recalibrated_on: int) -> None:
    """Print a line for every width."""
    print(
        f"{int(counts.images.sum()):,} images, {rate:,.0f} a second with loading; accuracies in percent, 95 % intervals"
    )
    print(f"{'width':<8}{'top-1':>8}{'interval':>18}{'top-5':>8}{'interval':>18}{'images/s':>10}")
    for width, about in values.items():
        cells = [f"{width + ('' if about['trained'] else ' *'):<8}"]
        for metric in ("top1", "top5"):
            low, high = about[f"{metric}_low"], about[f"{metric}_high"]
            cells.append(f"{about[metric]:>8.2f}{f'{low:.2f} to {high:.2f}':>18}")
        print("".join(cells) + f"{about['images_per_s']:>10,.0f}")
    if recalibrated_on:
        print(f"* never trained: batch norms recalibrated on {recalibrated_on:,} training images")


def show_lowest(per_class: dict[str, dict[str, Any]], width: str) -> None:
    """Print the classes that a width recognises least."""
    lowest = sorted(per_class, key=lambda name: per_class[name][width]["top1"])[:_LOWEST]
    found = ", ".join(f"{name} {per_class[name][width]['top1']:.1f}" for name in lowest)
    print(f"lowest top-1 at width {width}: {found}")
