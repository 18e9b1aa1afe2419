"""LARS (arXiv 1708.03888) as MoCo v3 uses it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose steps are scaled by trust * |weight| / |gradient| for each tensor.

    Tensors of fewer than two dimensions have neither weight decay nor trust ratio. A parameter without a gradient is
    left alone: neither momentum nor decay moves it.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: Weight decay, added to the gradient before the ratio.
        trust: Trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the parameters once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            used = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in used if parameter.dim() > 1]
            vectors = [parameter for parameter in used if parameter.dim() <= 1]
            self._move(matrices, self._scaled(matrices, group), group)
            self._move(vectors, [_grad(vector) for vector in vectors], group)
        return loss

    def _scaled(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Decayed gradients times their trust ratios; a ratio is 1 where a norm is 0."""
        if not parameters:
            return []
        updates = torch._foreach_add([_grad(p) for p in parameters], parameters, alpha=group["weight_decay"])
        weights = torch.stack(torch._foreach_norm(parameters))
        norms = torch.stack(torch._foreach_norm(updates))
        ratios = torch.where((weights > 0) & (norms > 0), group["trust"] * weights / norms, torch.ones_like(norms))
        return list(torch._foreach_mul(updates, list(ratios.unbind())))

    def _move(self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(parameters, buffers, alpha=-group["lr"])


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
