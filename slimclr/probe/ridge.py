"""A ridge classifier in closed form: least squares on one-hot targets, from sums that are added up block by block."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimclr.errors import UserError


@dataclass
class Moments:
    """Sums over images that ridge needs, in float64; those of parts of the images are added up.

    Attributes:
        gram: Features' products (d, d).
        total: Features' sum (d,).
        by_class: Features' sum of each class (classes, d).
        counts: Images of each class (classes,).
    """

    gram: Tensor
    total: Tensor
    by_class: Tensor
    counts: Tensor

    @classmethod
    def zero(cls, features: int, classes: int, device: torch.device) -> "Moments":
        """Those of no image."""
        shapes = ((features, features), (features,), (classes, features), (classes,))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add a block: features (n, d) and their classes (n,)."""
        rows = features.double()
        self.gram.addmm_(rows.T, rows)
        self.total += rows.sum(dim=0)
        self.by_class.index_add_(0, labels, rows)
        self.counts += labels.bincount(minlength=len(self.counts))

    def tensors(self) -> tuple[Tensor, ...]:
        """The sums, which several processes add up."""
        return self.gram, self.total, self.by_class, self.counts

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(one + two for one, two in zip(self.tensors(), other.tensors(), strict=True)))


@dataclass(frozen=True)
class Classifier:
    """A linear classifier in float64: weights (classes, d) and biases (classes,)."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(n, d) to (n, classes)."""
        return features.double() @ self.weight.T + self.bias


def moments(blocks: Iterable[tuple[Tensor, Tensor]], *, features: int, classes: int, device: torch.device) -> Moments:
    """The sums over blocks of features (n, d) and their classes (n,), which may lie elsewhere."""
    sums = Moments.zero(features, classes, device)
    for rows, labels in blocks:
        sums.add(rows.to(device), labels.to(device))
    return sums


def ridge(sums: Moments, penalties: Sequence[float]) -> list[Classifier]:
    """Minimise |X W + b - Y|^2 + alpha |W|^2 for several penalties; Y is one-hot, the bias is not penalised.

    alpha is `penalty` times `penalty_unit`, which makes a penalty mean the same for every network and number of images.

    Args:
        sums: Over the images X.
        penalties: One or more.

    Raises:
        UserError: There are fewer images than classes.
    """
    images = sums.counts.sum()
    check_enough(int(images), len(sums.counts))
    mean, share = sums.total / images, sums.counts / images
    # From here on a single decomposition serves all penalties.
    values, vectors = torch.linalg.eigh(_centred(sums))
    turned = vectors.T @ (sums.by_class - sums.counts[:, None] * mean).T
    unit, found = penalty_unit(sums), []
    for penalty in penalties:
        weight = (vectors @ (turned / (values.clamp(min=0) + penalty * unit)[:, None])).T
        found.append(Classifier(weight, share - weight @ mean))
    return found


def penalty_unit(sums: Moments) -> float:
    """The features' mean variance times the number of images; 1 where the features are all the same."""
    return float(_centred(sums).diagonal().clamp(min=0).mean()) or 1.0


def check_enough(images: int, classes: int) -> None:
    """Refuse fewer images than classes.

    Raises:
        UserError: There are fewer.
    """
    if images < classes:
        raise UserError(
            f"ridge: {images} training images, without those of held_out, for {classes} classes; give it at least as "
            "many images as classes"
        )


def _centred(sums: Moments) -> Tensor:
    return sums.gram - torch.outer(sums.total, sums.total) / sums.counts.sum()
