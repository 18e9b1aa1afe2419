"""Batches of photos as a network sees them; what cannot be read is left out and named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slimclr.data.images.decode import decode_rgb
from slimclr.data.stores.photos import Photos
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.draw import draw, view_rng
from slimclr.data.views.recipes import View
from slimclr.errors import UserError, printable
from slimclr.workers import iterate

Item = tuple[int, Tensor | str]


@dataclass(frozen=True)
class PhotoBatch:
    """Some photos in order.

    Attributes:
        indices: Which photos of all these are.
        images: Their views, float (n, 3, h, w); None where not one could be read.
        skipped: (number, reason) of those that could not be read.
    """

    indices: list[int]
    images: Tensor | None
    skipped: list[tuple[int, str]]


class _Views(Dataset):
    """(number, view), or (number, why there is none)."""

    def __init__(self, photos: Photos, view: View, chosen: Sequence[int]):
        self.photos, self.view, self.chosen = photos, view, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: int) -> Item:
        index = self.chosen[item]
        try:
            image = decode_rgb(self.photos.read(index), self.photos.keys[index])
        except (UserError, OSError) as error:
            cause = error.__cause__ if isinstance(error, UserError) else error
            return index, reason(cause or error)
        drawn = draw(self.view, view_rng(0, 0, index, 0), image.height, image.width)
        values = apply_torchvision(self.view, drawn, image)
        if self.view.crop == "none" and values.shape[1:] != (self.view.size, self.view.size):
            height, width = values.shape[1:]
            return index, f"{width} x {height} px, but this network takes {self.view.size} x {self.view.size}"
        return index, values


def reason(error: BaseException) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = printable(" ".join(str(error).split()))
    return "not an image" if "cannot identify image file" in text else text


def photo_batches(
    photos: Photos, view: View, *, batch: int, workers: int, chosen: Sequence[int] | None = None
) -> Iterator[PhotoBatch]:
    """Every photo once, in order.

    Args:
        photos: Encoded images.
        view: What is made of each; nothing random.
        batch: Photos of a batch, those that cannot be read counted.
        workers: Worker processes; 0 decodes in this one.
        chosen: Only these.
    """
    data = _Views(photos, view, range(len(photos)) if chosen is None else chosen)
    loader: DataLoader = DataLoader(data, batch_size=batch, num_workers=workers, collate_fn=_collate)
    yield from iterate(loader)


def _collate(items: list[Item]) -> PhotoBatch:
    read = [(index, view) for index, view in items if isinstance(view, Tensor)]
    skipped = [(index, why) for index, why in items if isinstance(why, str)]
    images = torch.stack([view for _, view in read]) if read else None
    return PhotoBatch([index for index, _ in read], images, skipped)
