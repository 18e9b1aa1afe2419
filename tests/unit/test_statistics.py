"""Intervals of accuracies."""

import pytest

from slimclr.statistics import wilson_interval


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3: the score method.
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_published_intervals(right, images, low, high):
    assert wilson_interval(right, images) == pytest.approx((low, high), abs=0.006)


def test_the_interval_stays_within_0_and_100():
    for images in (1, 7, 50_000):
        (lowest, _), (_, highest) = wilson_interval(0, images), wilson_interval(images, images)
        assert 0 <= lowest < 1e-9
        assert 100 - 1e-9 < highest <= 100
