"""Optimisers and schedules."""

from slimclr.optim.lars import LARS
from slimclr.optim.schedules import key_momentum, learning_rate

__all__ = ["LARS", "key_momentum", "learning_rate"]
