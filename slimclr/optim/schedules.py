"""Learning-rate schedules: pure functions from the step to a value."""

import math
from collections.abc import Sequence

FLOOR = 1e-8


def learning_rate(
    step: int,
    *,
    base: float,
    steps: int,
    warmup_steps: float = 0.0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    power: float | None = None,
    slim_start_step: int | None = None,
    slim_start_lr: float | None = None,
) -> float:
    """Learning rate of one optimiser step.

    Linear warm-up from 1e-8, then half a cosine or a polynomial down to 0 but not below 1e-8, or drops at milestones.

    Args:
        step: Number of steps taken before this one, from 0.
        base: Base learning rate.
        steps: Steps of the whole training.
        warmup_steps: Length of the warm-up; a share of `steps` that need not be whole.
        milestones: Steps from which the rate is multiplied by `gamma` once more; empty means a decay to 0.
        gamma: Factor at a milestone.
        power: Power of the polynomial (1: a straight line); None means cosine.
        slim_start_step: Step at which sub-networks join.
        slim_start_lr: Base learning rate from then on; None keeps `base`.
    """
    if slim_start_lr is not None and slim_start_step is not None and step >= slim_start_step:
        base = slim_start_lr
    if step < warmup_steps:
        return FLOOR + (base - FLOOR) * step / warmup_steps
    if milestones:
        return base * gamma ** sum(step >= milestone for milestone in milestones)
    progress = (step - warmup_steps) / (steps - warmup_steps)
    decay = 0.5 * (1 + math.cos(math.pi * progress)) if power is None else (1 - progress) ** power
    return max(FLOOR, base * decay)


def key_momentum(epoch: float, *, base: float, epochs: int) -> float:
    """MoCo v3's momentum of the key encoder: from `base` to 1 by half a cosine.

    Args:
        epoch: Fractional epoch.
        base: Momentum at the start.
        epochs: Epochs of the whole training.
    """
    return 1.0 - 0.5 * (1.0 + math.cos(math.pi * epoch / epochs)) * (1.0 - base)
