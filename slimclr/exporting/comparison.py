"""Whether what was written computes what the slimmable network does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimclr.data.loading.photos import photo_batches
from slimclr.data.stores import open_images
from slimclr.data.stores.photos import open_photos
from slimclr.errors import UserError
from slimclr.exporting.source import Preprocessing

TOLERANCE = 1e-5
_BATCH = 16


def difference(outputs: Tensor, expected: Tensor) -> float:
    """The greatest difference between two networks' outputs, relative to the greatest output; 0 where all are equal."""
    greatest = (outputs - expected).abs().max()
    return float(greatest / expected.abs().max()) if greatest != 0 else 0.0


def some_images(path: Path | None, preprocessing: Preprocessing, count: int) -> Tensor:
    """Images to compare on (n, 3, h, w): photos, evenly spread over all there are, or generated ones."""
    if path is None:
        size = preprocessing.crop
        return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.cat(list(photos_of(path, preprocessing, count)))


def photos_of(path: Path, preprocessing: Preprocessing, count: int, *, shuffled: bool = False) -> Iterator[Tensor]:
    """Batches of photos, evenly spread over all there are.

    Args:
        path: See `open_photos`; a folder may also have a folder for each class.
        preprocessing: What is done with them.
        count: How many.
        shuffled: Not in order, so that a batch has many classes.

    Raises:
        UserError: Not one can be read.
    """
    photos, found = open_photos(path), 0
    chosen = _spread(len(photos), count)
    if shuffled:
        chosen = np.random.default_rng(0).permutation(chosen)
    for batch in photo_batches(photos, preprocessing.view, batch=_BATCH, workers=0, chosen=chosen.tolist()):
        if batch.images is not None:
            found += len(batch.images)
            yield batch.images
    if not found:
        raise UserError(f"{path}: no image there can be read; give photos")


@dataclass(frozen=True)
class Agreement:
    """How a quantised network does beside the one it was made from, on the same images.

    Attributes:
        images: How many.
        before: Top-1 accuracy in percent; None without a classifier whose classes the images have.
        after: The same, quantised.
        same: Share in percent of images with the same first class; None without a classifier.
        data: What the images were.
    """

    images: int
    before: float | None
    after: float | None
    same: float | None
    data: str


def agreement(pairs: Iterator[tuple[Tensor, Tensor, Tensor | None]], *, data: str, classifies: bool) -> Agreement:
    """Compare outputs.

    Args:
        pairs: (outputs before, outputs after, labels or None) of batches.
        data: What the images were.
        classifies: The outputs are logits.
    """
    images, same = 0, 0
    right: list[int] | None = [0, 0]
    for before, after, labels in pairs:
        images += len(before)
        first, second = before.argmax(dim=1), after.argmax(dim=1)
        same += int((first == second).sum())
        if labels is None or right is None:
            right = None
        else:
            right = [right[0] + int((first == labels).sum()), right[1] + int((second == labels).sum())]
    percent = [None, None] if right is None else [round(100 * count / images, 4) for count in right]
    return Agreement(images, percent[0], percent[1], round(100 * same / images, 4) if classifies else None, data)


def labelled(
    path: Path, preprocessing: Preprocessing, classes: tuple[str, ...], count: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of images of a data set, evenly spread, with labels in the order of a classifier's classes.

    Labels are None where the classifier's classes are other ones.
    """
    images = open_images(path)
    known = {name: number for number, name in enumerate(classes)}
    numbered = not classes or classes == tuple(map(str, range(len(images.classes))))
    fits = bool(classes) and (numbered or set(images.classes) <= known.keys())
    chosen = _spread(len(images), count).tolist()
    for batch in photo_batches(images, preprocessing.view, batch=_BATCH, workers=0, chosen=chosen):
        if batch.images is not None:
            ranks = images.labels[batch.indices].tolist()
            labels = [rank if numbered else known.get(images.classes[rank], -1) for rank in ranks]
            yield batch.images, torch.tensor(labels) if fits else None


def _spread(there: int, wanted: int) -> np.ndarray:
    """Some of so many images, evenly spread."""
    return np.unique(np.linspace(0, there - 1, wanted).round().astype(int))
