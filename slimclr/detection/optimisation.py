"""Optimiser, schedule and precision of the transfer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

# Settings of a recipe that are arguments of `optimisation`.
OPTIMISATION = (
    *("milestones", "lr", "momentum", "weight_decay", "grad_clip", "warmup_iterations", "warmup_ratio"),
    *("lr_batch", "precision"),
)
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Automatic mixed precision on any device; mmengine's own wrapper refuses the CPU.

    Args:
        precision: bf16, or fp16 with a scaler of gradients.
        settings: mmengine's.

    Attributes:
        scaler: Its state is part of a checkpoint.
    """

    def __init__(self, *, precision: str, **settings: Any):
        super().__init__(**settings)
        self.device, self.type = get_device(), _TYPES[precision]
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == "fp16")

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """What a forward pass is computed in."""
        with super().optim_context(model), torch.autocast(self.device, self.type):
            yield

    def backward(self, loss: Tensor, **settings: Any) -> None:
        """Add the gradients of a loss, scaled."""
        super().backward(self.scaler.scale(loss), **settings)

    def step(self, **settings: Any) -> None:
        """Clip the gradients and move the weights; where scaled gradients overflowed, only the scale."""
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.scaler.step(self.optimizer, **settings)
        self.scaler.update()


def optimisation(
    *,
    epochs: int,
    batch: int,
    milestones: Sequence[int],
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_clip: float,
    warmup_iterations: int,
    warmup_ratio: float,
    lr_batch: int | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """The optimiser and its schedule.

    Args:
        epochs: Epochs.
        batch: Images per step, all processes together.
        milestones: Epochs after which the learning rate is divided by 10.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay, on all parameters.
        grad_clip: Greatest norm of the summed gradient.
        warmup_iterations: Steps of linear warm-up; 0 for none.
        warmup_ratio: Share of the learning rate at the first step.
        lr_batch: Batch that rate and steps of warm-up are for: with another one the rate is in proportion, and warm-up
            lasts as many images; None: they are for `batch`.
        precision: fp32, bf16 or fp16.
    """
    factor = batch / (lr_batch or batch)
    warmup_iterations = round(warmup_iterations / factor)
    steps = {"type": "MultiStepLR", "begin": 0, "end": epochs, "by_epoch": True, "milestones": list(milestones)}
    schedule: list[dict[str, Any]] = [steps | {"gamma": 0.1}]
    if warmup_iterations:
        warmup = {"type": "LinearLR", "start_factor": warmup_ratio, "by_epoch": False}
        schedule.insert(0, warmup | {"begin": 0, "end": warmup_iterations})
    wrapper = {"type": "OptimWrapper"}
    if precision != "fp32":
        wrapper = {"type": "AutocastOptimWrapper", "precision": precision}
    return {
        "optim_wrapper": {
            **wrapper,
            "optimizer": {"type": "SGD", "lr": lr * factor, "momentum": momentum, "weight_decay": weight_decay},
            "clip_grad": {"max_norm": grad_clip, "norm_type": 2},
        },
        "param_scheduler": schedule,
    }
