"""The optimiser of a recipe."""

from typing import Any

import torch
from torch import nn

from slimclr.config import Optimizer
from slimclr.optim import LARS


def build_optimizer(settings: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a recipe; weight decay applies to every parameter, as in the reference (LARS: to matrices)."""
    options: dict[str, Any] = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    if settings.name == "lars":
        return LARS(module.parameters(), trust=settings.trust, **options)
    sgd = torch.optim.SGD(module.parameters(), fused=True, **options)
    if settings.momentum:
        # The fused kernel wants all buffers or none, and sub-networks begin later than the full network.
        for parameter in module.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd
