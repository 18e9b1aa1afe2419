"""Losses as pure functions."""

from slimclr.losses.contrastive import info_nce_logits, nt_xent_logits
from slimclr.losses.distillation import kl_distillation
from slimclr.losses.weights import LOSS_WEIGHTS, loss_weights

__all__ = ["LOSS_WEIGHTS", "info_nce_logits", "kl_distillation", "loss_weights", "nt_xent_logits"]
