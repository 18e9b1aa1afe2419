"""LARS (arXiv 1708.03888) as MoCo v3 uses it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose steps are scaled by trust * |weight| / |gradient| for each tensor.

    Tensors of fewer than two dimensions have neither weight decay nor trust ratio. A parameter without a gradient is
    left alone: neither momentum nor decay moves it.

    As with PyTorch's fused optimisers, attributes `found_inf` (1 leaves the step out) and `grad_scale` (divides the
    gradients) may be set before a step, for instance by `torch.amp.GradScaler`: they are evaluated on the device, so
    that the CPU need not wait for it.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: Weight decay, added to the gradient before the ratio.
        trust: Trust coefficient.
    """

    _step_supports_amp_scaling = True
    """Asked for by `torch.amp.GradScaler`."""

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
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        finite = None if found_inf is None else (found_inf == 0).all()
        for group in self.param_groups:
            used = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameters, is_matrix in (
                ([parameter for parameter in used if parameter.dim() > 1], True),
                ([parameter for parameter in used if parameter.dim() <= 1], False),
            ):
                if not parameters:
                    continue
                updates = [_grad(parameter) for parameter in parameters]
                if scale is not None:
                    updates = list(torch._foreach_div(updates, scale.reshape(())))
                if is_matrix:
                    updates = _scaled(parameters, updates, group)
                self._move(parameters, updates, group, finite)
        return loss

    def _move(
        self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any], finite: Tensor | None
    ) -> None:
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers.append(state["momentum_buffer"])
        momentum, rate = group["momentum"], -group["lr"]
        if finite is not None:
            updates = [torch.where(finite, update, 0.0) for update in updates]
            momentum, rate = torch.where(finite, momentum, 1.0), torch.where(finite, rate, 0.0)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(parameters, torch._foreach_mul(buffers, rate))


def _scaled(parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Decayed gradients times their trust ratios; a ratio is 1 where a norm is 0."""
    updates = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
    weights = torch.stack(torch._foreach_norm(parameters))
    norms = torch.stack(torch._foreach_norm(updates))
    ratios = torch.where((weights > 0) & (norms > 0), group["trust"] * weights / norms, torch.ones_like(norms))
    return list(torch._foreach_mul(updates, list(ratios.unbind())))


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
