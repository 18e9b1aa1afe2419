"""Losses as pure functions."""

from slimclr.losses.contrastive import info_nce_logits, nt_xent_logits
from slimclr.losses.distillation import (
    adaptive_temperature_distillation,
    decoupled_distillation,
    kl_distillation,
    mixed_loss,
    mse_distillation,
)
from slimclr.losses.reweighting import LOSS_WEIGHTS, loss_weights

__all__ = [
    "LOSS_WEIGHTS",
    "adaptive_temperature_distillation",
    "decoupled_distillation",
    "info_nce_logits",
    "kl_distillation",
    "loss_weights",
    "mixed_loss",
    "mse_distillation",
    "nt_xent_logits",
]
