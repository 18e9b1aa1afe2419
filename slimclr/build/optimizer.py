"""The optimiser of a recipe."""

from typing import Any

import torch
from torch import nn

from slimclr.config import Optimizer
from slimclr.engine.loop import LR_SCALE
from slimclr.optim import LARS


def build_optimizer(
    settings: Optimizer,
    module: nn.Module,
    *,
    head: nn.Module | None = None,
    head_lr: float | None = None,
    groups: list[dict[str, Any]] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser of a recipe; weight decay applies to every parameter, as in the reference (LARS: to matrices).

    Args:
        settings: Of the recipe.
        module: What is moved.
        head: A part of it with a learning rate of its own.
        head_lr: That rate, in place of the settings'; None: the same.
        groups: The module's parameters with what differs from the settings; None: a single group.
    """
    groups = groups or [{"params": list(module.parameters())}]
    if head is not None and head_lr is not None:
        own = set(head.parameters())
        groups[0]["params"] = [parameter for parameter in module.parameters() if parameter not in own]
        groups.append({"params": list(head.parameters()), LR_SCALE: head_lr / settings.lr})
    options: dict[str, Any] = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    if settings.name == "lars":
        return LARS(groups, trust=settings.trust, **options)
    sgd = torch.optim.SGD(groups, fused=True, **options)
    if settings.momentum:
        # The fused kernel wants all buffers or none, and sub-networks begin later than the full network; and it leaves
        # buffers of its own uninitialised where fp16's first step overflows.
        for parameter in module.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd
