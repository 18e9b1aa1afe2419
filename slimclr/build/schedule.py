"""The learning rate of a recipe over its steps."""

from functools import partial

from slimclr.config import Schedule
from slimclr.optim import learning_rate


def build_schedule(
    settings: Schedule, *, lr: float, epochs: int, steps_per_epoch: int, slow_start_epoch: int = 0
) -> partial[float]:
    """Step -> learning rate of a recipe."""
    steps = epochs * steps_per_epoch
    return partial(
        learning_rate,
        base=lr,
        steps=steps,
        warmup_steps=settings.warmup * steps,
        milestones=[epoch * steps_per_epoch for epoch in settings.milestones],
        gamma=settings.gamma,
        power=settings.power if settings.name == "polynomial" else None,
        slim_start_step=slow_start_epoch * steps_per_epoch,
        slim_start_lr=settings.slim_start_lr,
    )
