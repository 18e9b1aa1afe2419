"""Schedules: what the reference's figures (methods/test_golden.py) do not show."""

import pytest

from slimclr.optim import learning_rate


def test_without_slim_start_lr_the_base_rate_stays():
    plain = learning_rate(50, base=0.2, steps=100)
    assert learning_rate(50, base=0.2, steps=100, slim_start_step=50, slim_start_lr=None) == plain


@pytest.mark.parametrize(("power", "half"), [(1.0, 0.1), (2.0, 0.05)])
def test_polynomial_decay(power, half):
    rates = [learning_rate(step, base=0.2, steps=110, warmup_steps=10, power=power) for step in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([1e-8, 0.1, 0.2, half, 1e-8], rel=1e-6)
