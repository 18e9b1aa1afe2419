"""The base class of training methods, and what the training loop gets from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.nn import SlimmableResNet, width_key, widths_together

DistillationLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student (n, c), teacher (n, c), target columns (n,)) -> scalar loss."""


@dataclass(frozen=True)
class WidthResult:
    """One width's share of a step; scalars on the device, so that the CPU need not wait for the GPU."""

    loss: Tensor
    """Weighted loss, with gradient."""
    accuracy: Tensor
    """Top-1 accuracy on the batch, from 0 to 1, detached."""


@dataclass(frozen=True)
class Output:
    """What a method's forward returns."""

    loss: Tensor
    """Weighted sum over the widths that trained, a scalar with gradient."""
    widths: dict[float, WidthResult]
    """By width, the widest first; only widths that trained."""


@dataclass(frozen=True)
class SubNetworkLoss:
    """How the widths' losses become one (SlimCLR, equations 4 and 5).

    A sub-network's loss is `weight * ((1 - share) * own + share * distillation)`; the full network's `weight * own`.

    Attributes:
        weights: Weight of each width once sub-networks train; before slow start the full network's weight is 1.
        distillation: Distillation loss; None without distillation.
        share: Share of distillation in a sub-network's loss.
        on: What is distilled: the teachers' logits or their normalised features.
        full_distill: A width learns from every wider one, averaged, instead of only from the full network.
    """

    weights: Mapping[float, float]
    distillation: DistillationLoss | None = None
    share: float = 0.5
    on: Literal["logits", "features"] = "logits"
    full_distill: bool = False

    def __call__(
        self,
        losses: Mapping[float, Tensor],
        logits: Mapping[float, Tensor],
        targets: Tensor,
        features: Mapping[float, Tensor] | None = None,
    ) -> Output:
        """Combine the losses of one step.

        Args:
            losses: The method's own loss by width, the widest first.
            logits: Logits (n, c) by width.
            targets: The target column of each row (n,), for the accuracies.
            features: What the logits were computed from (n, d), rows of unit length, by width; needed by `on`.
        """
        taught = features if self.on == "features" else logits
        assert taught is not None, "the config refuses distillation on features for a method without them"
        total, results = torch.zeros((), device=targets.device), {}
        teachers: list[Tensor] = []
        for width, loss in losses.items():
            if teachers and self.distillation is not None:
                lessons = [self.distillation(taught[width], teacher, targets) for teacher in teachers]
                loss = (1 - self.share) * loss + self.share * torch.stack(lessons).mean()
            if self.full_distill or not teachers:
                teachers.append(taught[width])
            weighted = (self.weights[width] if len(losses) > 1 else 1.0) * loss
            total = total + weighted
            accuracy = (logits[width].argmax(dim=1) == targets).float().mean()
            results[width] = WidthResult(weighted, accuracy)
        return Output(total, results)


class Encoder(nn.Module):
    """Backbone and head.

    Args:
        backbone: The slimmable network.
        head: Called with features and width.
        normalize: The output has unit length.
    """

    def __init__(self, backbone: SlimmableResNet, head: nn.Module, *, normalize: bool = True):
        super().__init__()
        self.backbone, self.head, self.normalize = backbone, head, normalize

    def forward(self, images: Tensor, width: float = 1.0, convolved: Tensor | None = None) -> Tensor:
        """(n, 3, h, w) to (n, d); `convolved` is the images' first convolution, where it is known."""
        output = self.head(self.backbone(images, width, convolved), width)
        return F.normalize(output, dim=1) if self.normalize else output


def full_precision(tensor: Tensor) -> Tensor:
    """Half floats as floats: a softmax sums over tens of thousands of exponentials."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@torch.no_grad()
def momentum_update(momentum_encoder: nn.Module, encoder: nn.Module, momentum: float) -> None:
    """Update a momentum encoder's parameters (MoCo, equation 2); its batch norms keep their own running statistics."""
    keys: list[Tensor] = list(momentum_encoder.parameters())
    torch._foreach_lerp_(keys, list[Tensor](encoder.parameters()), 1 - momentum)


class Method(nn.Module):
    """A network with its objective.

    Args:
        widths: Width multipliers.
        slow_start_epoch: Widths below 1.0 join at this epoch; before it only the full network is computed.

    Attributes:
        needs_whole_step: `before_step` gets the views of all of a step's batches, not an empty sequence.
    """

    needs_whole_step = False

    def __init__(self, widths: Sequence[float], *, slow_start_epoch: int = 0):
        super().__init__()
        self.widths = tuple(sorted(widths, reverse=True))
        self.slow_start_epoch = slow_start_epoch

    def forward(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of one batch.

        Args:
            views: Batches of normalised images, (n, 3, h, w) each.
            labels: Classes (n,), for methods that use them.
            epoch: Fractional epoch at the start of the step.
        """
        with widths_together(self.trainable(), self.active_widths(epoch)):
            return self.losses(views, labels, epoch)

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """What a method computes in `forward`."""
        raise NotImplementedError

    def before_step(self, epoch: float, step: int, batches: Sequence[Sequence[Tensor]]) -> None:
        """Called once before the batches of an optimiser step.

        Args:
            epoch: As in `forward`.
            step: Optimiser steps since the beginning of training; a method's random choices follow it.
            batches: The views of the step's batches on this process, in the order of their forward passes.
        """

    def after_step(self) -> None:
        """Called once after the batches of an optimiser step."""

    def active_widths(self, epoch: float) -> tuple[float, ...]:
        """Widths that train at an epoch (slow start, SlimCLR, section 3.3)."""
        return self.widths if epoch >= self.slow_start_epoch else self.widths[:1]

    def require_gradients(self, epoch: float) -> None:
        """Let only the parameters that this epoch uses require a gradient.

        Before slow start, parameters that only sub-networks have get no gradient (None, not zero): the optimiser
        neither moves nor decays them, and DistributedDataParallel has no unused parameter to wait for.
        """
        active = {width_key(width) for width in self.active_widths(epoch)}
        known = {width_key(width) for width in self.widths}
        for name, parameter in self.trainable().named_parameters():
            owner = known.intersection(name.split("."))
            parameter.requires_grad_(not owner or bool(owner & active))

    def trainable(self) -> nn.Module:
        """The module whose parameters the optimiser updates."""
        return self

    @torch.no_grad()
    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over some of the tensors that a method of this kind exported; see `exported`."""
        own = self.exported()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    def exported(self) -> dict[str, Tensor]:
        """Tensors for the weights file; the backbone's names start with `backbone.`."""
        return dict(self.state_dict())
