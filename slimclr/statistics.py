"""Statistics of results."""

import math

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
