"""Linear probes of several recipes in one pass over the data, and the choice among them on held-out images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.data.loading.base import Loader
from slimclr.engine.loop import LR_SCALE
from slimclr.errors import UserError
from slimclr.methods.base import Method, Output, WidthResult
from slimclr.nn import SlimmableLinear, SlimmableResNet, SwitchableLinear, classifier, width_key

Features = Callable[[Tensor], dict[float, Tensor]]
"""Images (n, 3, h, w) -> features (n, out_features * width) by width, the widest first, without a gradient."""

# Softmax of smaller logits is finite; a probe whose logits are larger has diverged.
_DIVERGED = 1e30


class Candidate(NamedTuple):
    """How one of the probes is trained."""

    layer: str
    """switchable: a linear layer per width; slimmable: the widths share one."""
    lr: float
    weight_decay: float


def module_features(backbone: SlimmableResNet) -> Features:
    """Features of a backbone's module as it is, in eval mode."""
    frozen = backbone.requires_grad_(False).eval()

    @torch.no_grad()
    def features(images: Tensor) -> dict[float, Tensor]:
        return {width: frozen(images, width) for width in frozen.widths}

    return features


class GridProbe(Method):
    """Linear classifiers of several candidates on the same frozen features.

    The features of a width are computed once a step, and a width's classifiers of all candidates are one matrix
    product. Each candidate's loss is that of `LinearProbe`, and its classifiers start with the same weights as those of
    any other; nothing but the features is shared. One that diverges gets no gradient any more and disturbs no other.
    Losses and accuracies of a step are the first candidate's, the published recipe's; the total is the sum over all.

    Args:
        features: Gives the frozen features.
        backbone: What they are features of.
        classes: Number of classes.
        candidates: The published recipe first.
        soft_labels: A sub-width's loss is half a cross-entropy with the full width's predictions.
    """

    def __init__(
        self,
        features: Features,
        backbone: SlimmableResNet,
        classes: int,
        candidates: Sequence[Candidate],
        *,
        soft_labels: bool = True,
    ):
        super().__init__(backbone.widths)
        self.features, self.classes, self.soft_labels = features, classes, soft_labels
        self.candidates = tuple(candidates)
        heads: dict[str, nn.Module] = {}
        self.heads = nn.ModuleList()
        for candidate in self.candidates:
            head = classifier(
                backbone.out_features,
                classes,
                backbone.widths,
                switchable=candidate.layer == "switchable",
                overlap=backbone.overlap,
            )
            first = heads.setdefault(candidate.layer, head)
            head.load_state_dict(first.state_dict())
            self.heads.append(head)

    def logits(self, features: Tensor, width: float) -> Tensor:
        """Logits of all candidates, 0 where a candidate has diverged: (n, features) to (n, candidates, classes)."""
        layers = [_layer(head, width) for head in self.heads]
        weight, bias = (torch.cat(parts) for parts in zip(*layers, strict=True))
        logits = F.linear(features, weight, bias).unflatten(1, (len(layers), self.classes))
        finite = logits.detach().abs().amax(dim=(0, 2)) < _DIVERGED
        return torch.where(finite[:, None], logits, 0.0)

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float, step: int = 0) -> Output:
        """Losses of all widths and candidates."""
        total, results = views[0].new_zeros(()), {}
        soft: Tensor | None = None
        for width, features in self.features(views[0]).items():
            logits = self.logits(features, width)
            losses = self._cross_entropy(logits, labels[:, None].expand(-1, len(self.heads)).flatten())
            if soft is not None:
                losses = 0.5 * (losses + self._cross_entropy(logits, soft))
            elif self.soft_labels:
                soft = logits.detach().softmax(dim=2).flatten(0, 1)
            total = total + losses.sum()
            results[width] = WidthResult(losses[0], (logits[:, 0].argmax(dim=1) == labels).float().mean())
        return Output(total, results)

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the images, by candidate."""
        losses = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
        return losses.unflatten(0, logits.shape[:2]).mean(dim=0)

    def trainable(self) -> nn.Module:
        """The classifiers."""
        return self.heads

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, each candidate with its own rate, relative to the first one's, and weight decay."""
        base = self.candidates[0].lr
        return [
            {"params": list(head.parameters()), LR_SCALE: candidate.lr / base, "weight_decay": candidate.weight_decay}
            for candidate, head in zip(self.candidates, self.heads, strict=True)
        ]

    def diverged(self) -> list[bool]:
        """Which candidates hold numbers that are not finite, or too large to be of use."""
        return [
            not all(bool((parameter.abs() < _DIVERGED).all()) for parameter in head.parameters()) for head in self.heads
        ]


Accuracies = dict[float, dict[str, float]]
"""Top-1 and top-5 in percent by width."""


@torch.no_grad()
def evaluate_candidates(probe: GridProbe, loader: Loader, device: torch.device) -> list[Accuracies | None]:
    """Top-1 and top-5 of every candidate over the images of all processes; None for one that diverged.

    Args:
        probe: Lies on `device`.
        loader: Every image exactly once over all processes.
        device: Where to compute.
    """
    # By width and candidate: right among the first one and the first five; images.
    right = torch.zeros(len(probe.widths), len(probe.heads), 2, dtype=torch.float64, device=device)
    images_seen = torch.zeros((), dtype=torch.float64, device=device)
    for (images,), labels in loader:
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        images_seen += len(labels)
        for row, (width, features) in enumerate(probe.features(images).items()):
            ranked = probe.logits(features, width).topk(min(5, probe.classes), dim=2).indices == labels[:, None, None]
            right[row] += torch.stack([ranked[..., 0].sum(dim=0), ranked.sum(dim=(0, 2))], dim=1)
    if dist.is_initialized():
        dist.all_reduce(right)
        dist.all_reduce(images_seen)
    percent = (100 * right / images_seen).cpu()
    return [
        None
        if lost
        else {
            width: dict(zip(("top1", "top5"), percent[row, index].tolist(), strict=True))
            for row, width in enumerate(probe.widths)
        }
        for index, lost in enumerate(probe.diverged())
    ]


def choose(candidates: Sequence[Candidate], held_out: Sequence[Accuracies | None], layer: str) -> dict[float, int]:
    """The candidate of a layer that is most often right on held-out images: its index, by width.

    Each width chooses for itself where it has a layer of its own; where the widths share one, the mean over them does.
    Among equals the first one wins.

    Args:
        candidates: All of them.
        held_out: What `evaluate_candidates` gave.
        layer: switchable or slimmable.

    Raises:
        UserError: All candidates of the layer diverged.
    """
    able = {
        index: accuracies
        for index, (candidate, accuracies) in enumerate(zip(candidates, held_out, strict=True))
        if candidate.layer == layer and accuracies is not None
    }
    if not able:
        raise UserError(
            f"probe: every {layer} classifier diverged; lower probe.optimizer.lr, probe.grid.lr or their weight decays"
        )
    widths = next(iter(able.values()))
    if layer == "slimmable":
        best = max(able, key=lambda index: sum(able[index][width]["top1"] for width in widths))
        return dict.fromkeys(widths, best)
    return {width: max(able, key=lambda index: able[index][width]["top1"]) for width in widths}


def chosen_head(
    probe: GridProbe, backbone: SlimmableResNet, chosen: dict[float, int]
) -> SlimmableLinear | SwitchableLinear:
    """The classifiers that were chosen, as one layer per width."""
    head = classifier(backbone.out_features, probe.classes, probe.widths, switchable=True)
    state: dict[str, Tensor] = {}
    for width, index in chosen.items():
        weight, bias = _layer(probe.heads[index], width)
        name = f"linears.{width_key(width)}"
        state |= {f"{name}.weight": weight.detach().clone(), f"{name}.bias": bias.detach().clone()}
    head.load_state_dict(state)
    return head.to(next(probe.parameters()).device)


def _layer(head: nn.Module, width: float) -> tuple[Tensor, Tensor]:
    """Weight and bias that a width uses."""
    if isinstance(head, SwitchableLinear):
        own = head.get_submodule(f"linears.{width_key(width)}")
        assert isinstance(own, nn.Linear)
        return own.weight, own.bias
    assert isinstance(head, SlimmableLinear)
    assert head.bias is not None
    return head.weight[:, head.in_slices[width]], head.bias
