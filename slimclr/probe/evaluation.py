"""How often classifiers are right, for every width in one pass over the images."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from slimclr.data.loading.base import Loader


class Classifier(Protocol):
    """What is evaluated."""

    @property
    def widths(self) -> tuple[float, ...]:
        """Widths to evaluate, from the widest down."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    def logits(self, images: Tensor, width: float) -> Tensor:
        """(n, 3, h, w) to (n, classes)."""

    def eval(self) -> Any:
        """Switch to the running statistics."""


@dataclass(frozen=True)
class Counts:
    """Images by their true class, over all processes; float64 on the CPU.

    Attributes:
        images: All of them (classes,).
        top1: Those of which the first answer is right, by width (classes,).
        top5: Those with the right answer among the first five.
    """

    images: Tensor
    top1: dict[float, Tensor]
    top5: dict[float, Tensor]

    def percent(self) -> dict[float, dict[str, float]]:
        """Top-1 and top-5 accuracy in percent by width."""
        total = self.images.sum()
        return {
            width: {
                "top1": (100 * top1.sum() / total).item(),
                "top5": (100 * self.top5[width].sum() / total).item(),
            }
            for width, top1 in self.top1.items()
        }


@torch.no_grad()
def count_right(classifier: Classifier, loader: Loader, device: torch.device) -> Counts:
    """Ask a classifier about every image at every width.

    Args:
        classifier: Gives `logits(images, width)`; it lies on `device`.
        loader: Every validation image exactly once over all processes, with labels below `classifier.classes`.
        device: Where to compute.
    """
    classifier.eval()
    # By class: images, then right answers of every width among the first one and the first five.
    counts = torch.zeros(1 + 2 * len(classifier.widths), classifier.classes, dtype=torch.float64, device=device)
    for (images,), labels in loader:
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        counts[0].index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
        for row, width in enumerate(classifier.widths):
            logits = classifier.logits(images, width)
            ranked = (logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]).double()
            counts[2 * row + 1].index_add_(0, labels, ranked[:, 0])
            counts[2 * row + 2].index_add_(0, labels, ranked.sum(dim=1))
    if dist.is_initialized():
        dist.all_reduce(counts)
    everyone, *rows = counts.cpu()
    return Counts(
        everyone,
        dict(zip(classifier.widths, rows[::2], strict=True)),
        dict(zip(classifier.widths, rows[1::2], strict=True)),
    )


def evaluate(classifier: Classifier, loader: Loader, device: torch.device) -> dict[float, dict[str, float]]:
    """Top-1 and top-5 accuracy in percent by width, over the images of all processes; arguments as `count_right`."""
    return count_right(classifier, loader, device).percent()
