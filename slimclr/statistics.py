"""Statistics of results."""

import math
from collections.abc import Mapping

# The quantile of the normal distribution for two-sided intervals of 95 %.
_Z = 1.959963984540054


def wilson_interval(right: float, images: float) -> tuple[float, float]:
    """The 95 % interval of a share, in percent (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    Unlike the normal approximation it stays within 0 and 100 % and holds for few images and for shares near either end.

    Args:
        right: How many images were answered rightly.
        images: How many there were, at least one.
    """
    share, squared = right / images, _Z * _Z
    centre = (share + squared / (2 * images)) / (1 + squared / images)
    half = _Z / (1 + squared / images) * math.sqrt(share * (1 - share) / images + squared / (4 * images * images))
    # At either end rounding may pass the limit.
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def with_intervals(accuracies: Mapping[str, float], images: int) -> dict[str, float]:
    """Accuracies in percent, each with the ends of its 95 % interval.

    Args:
        accuracies: By name, for instance `top1`.
        images: Of how many images.

    Returns:
        Each name with `<name>_low` and `<name>_high`, rounded to four digits.
    """
    found: dict[str, float] = {}
    for name, percent in accuracies.items():
        low, high = wilson_interval(percent * images / 100, images)
        found |= {name: percent, f"{name}_low": low, f"{name}_high": high}
    return {name: round(value, 4) for name, value in found.items()}
