"""The combination of the widths' losses: re-weighting and online distillation (section 3.2 of the paper)."""

from collections.abc import Sequence
from functools import partial

from slimclr.config import Distillation, Pretrain
from slimclr.losses import (
    adaptive_temperature_distillation,
    decoupled_distillation,
    kl_distillation,
    loss_weights,
    mse_distillation,
)
from slimclr.methods import DistillationLoss, SubNetworkLoss


def build_combination(recipe: Pretrain, widths: Sequence[float]) -> SubNetworkLoss:
    """Re-weighting and distillation of a recipe."""
    weights, settings = loss_weights(recipe.loss_weights, widths), recipe.distillation
    if settings is None:
        return SubNetworkLoss(weights)
    return SubNetworkLoss(
        weights, build_distillation(settings), settings.share, on=settings.on, full_distill=settings.full_distill
    )


def build_distillation(settings: Distillation) -> DistillationLoss:
    """The distillation loss of a recipe."""
    kinds: dict[str, DistillationLoss] = {
        "kl": partial(
            kl_distillation,
            student_temperature=settings.student_temperature,
            teacher_temperature=settings.teacher_temperature,
        ),
        "mse": mse_distillation,
        "dkd": decoupled_distillation,
        "atkd": adaptive_temperature_distillation,
    }
    return kinds[settings.kind]
