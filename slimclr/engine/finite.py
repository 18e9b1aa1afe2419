"""The finite check: after the first loss or gradient that is not finite, no step moves the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimclr.errors import UserError
from slimclr.files import atomic_path

# The gradient scaler halves its factor at every overflow. After so many in a row no factor will fit.
MAX_OVERFLOWS = 50


@dataclass(frozen=True)
class NotFinite:
    """The first step with a number that is not finite.

    Attributes:
        step: Its number, from 1.
        numbers: On the CPU: the loss, by width the loss and the accuracy, and the gradient norm.
        gradients: Parameters whose gradients are not finite; None if the gradients were gone before the check.
    """

    step: int
    numbers: Tensor
    gradients: list[str] | None


class FiniteCheck:
    """Checks the numbers of every step, and skips the optimiser's steps once one of them is not finite.

    On the CPU the check is immediate. On a GPU that would wait for the step to end: the numbers are copied to the CPU
    in the background and checked one step later, and the optimiser's kernels skip their step by themselves.

    With fp16 a gradient overflows now and then. The gradient scaler skips that step; only more than `MAX_OVERFLOWS`
    overflows in a row count as not finite.

    Args:
        module: What the optimiser moves.
        device: Where it is trained.

    Attributes:
        found: The first step that is not finite, once the check has seen it.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.found: NotFinite | None = None
        self._module = module
        self._later = device.type == "cuda"
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._overflows = torch.zeros((), device=device)
        # The last step's numbers on their way from the GPU, until they are checked.
        self._coming: _Copy | None = None

    def numbers(self, losses: Tensor, norm: Tensor, *, scaled: bool) -> Tensor:
        """Collect a step's numbers, and record on the device whether they are finite.

        Args:
            losses: The loss, and loss and accuracy by width (n,), means over the step's batches.
            norm: Norm of the whole gradient, before clipping, a scalar.
            scaled: A gradient scaler skips steps whose gradient overflowed.

        Returns:
            All numbers of the step (n + 1,), on the device.
        """
        if scaled:
            self._overflows = torch.where(norm.isfinite(), 0, self._overflows + 1)
            norm = torch.where(self._overflows > MAX_OVERFLOWS, norm, 0)
        numbers = torch.cat([losses, norm[None]])
        self._finite = self._finite & numbers.isfinite().all()
        return numbers

    def step(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Take the optimiser's step, unless a number of this or an earlier step is not finite."""
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
        elif self._later and getattr(optimizer, "_step_supports_amp_scaling", False):
            # The kernel itself skips the step, so that the CPU need not wait for the GPU.
            optimizer.found_inf = (~self._finite).float()  # type: ignore[attr-defined]
            optimizer.step()
        elif self._finite.item():
            optimizer.step()

    def check(self, step: int, numbers: Tensor) -> None:
        """Check a step's numbers; on a GPU, those of the step before.

        Args:
            step: Its number, from 1.
            numbers: What `numbers` returned for it.
        """
        if not self._later:
            self._check(step, numbers, gradients=True)
            return
        copy = _Copy(step, numbers)
        if self._coming is not None:
            self._check(self._coming.step, self._coming.wait(), gradients=False)
        self._coming = copy

    def check_pending(self) -> bool:
        """Check the numbers that are still on their way from the GPU; whether any so far is not finite."""
        if self._coming is not None:
            coming, self._coming = self._coming, None
            self._check(coming.step, coming.wait(), gradients=True)
        return self.found is not None

    def _check(self, step: int, numbers: Tensor, *, gradients: bool) -> None:
        """`gradients`: the gradients of that step are still there."""
        if self.found is None and not numbers.isfinite().all():
            self.found = NotFinite(step, numbers, self._not_finite_gradients() if gradients else None)

    def _not_finite_gradients(self) -> list[str]:
        return [
            name
            for name, parameter in self._module.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]


class _Copy:
    """Numbers of a GPU on their way to the CPU."""

    def __init__(self, step: int, numbers: Tensor):
        self.step = step
        self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def wait(self) -> Tensor:
        """Wait for the numbers."""
        self._arrived.synchronize()
        return self._numbers


def report_not_finite(
    found: NotFinite,
    path: Path,
    *,
    name: str,
    epoch: int,
    lr: float,
    widths: Sequence[float],
    images: list[Tensor],
    method: nn.Module,
) -> UserError:
    """Write a file with what is needed to investigate such a step.

    Args:
        found: The step.
        path: The file, in the folder of the checkpoints.
        name: What is trained, for the message.
        epoch: Of the step, from 0.
        lr: Its learning rate.
        widths: Widths that trained, in the order of their numbers.
        images: Indices of the images of each of its batches.
        method: What is trained, as it is now.

    Returns:
        The error to end with.
    """
    content: dict[str, Any] = {
        "step": found.step,
        "epoch": epoch,
        "lr": lr,
        "loss": found.numbers[0].item(),
        "widths": {str(width): loss.item() for width, loss in zip(widths, found.numbers[1::2], strict=False)},
        "images": images,
        "not_finite_gradients": found.gradients,
        "method": method.state_dict(),
    }
    with atomic_path(path) as part:
        torch.save(content, part)
    known = found.gradients is not None
    gradients = f"; {len(found.gradients or ())} parameters have gradients that are not finite" if known else ""
    return UserError(
        f"{name}: the loss is {found.numbers[0].item():g} at step {found.step} (learning rate {lr:g}{gradients}); that "
        f"step did not move the weights. Losses, weights and the batch's images are in {path}; lower optimizer.lr "
        f"and rerun, the checkpoints are in {path.parent}"
    )
