"""Loaders: which images an epoch shows to which process, and in which order.

The order depends on (seed, epoch) alone and the random views of an image on (seed, epoch, image) alone: neither the
number of workers nor an interruption changes what the network sees.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from slimclr.data.decode import decode_rgb
from slimclr.data.views import Transform
from slimclr.errors import UserError
from slimclr.seeds import derived_seed


class Images(Protocol):
    """Encoded images with labels, see `slimclr.data.open_images`."""

    @property
    def keys(self) -> Sequence[str]:
        """`<class>/<file name>` of every image."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is an index into them."""

    @property
    def labels(self) -> np.ndarray:
        """Class of every image, int64 (n,)."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """The image's bytes as they were in the archive."""


class Views(Dataset):
    """Random views of one image, drawn from (seed, epoch, index)."""

    def __init__(self, images: Images, transforms: Sequence[Transform], seed: int):
        self.images, self.transforms, self.seed = images, tuple(transforms), seed

    def __getitem__(self, item: tuple[int, int]) -> tuple[list[Tensor], int]:
        """Views (3, h, w) and label of the image `index` in `epoch`."""
        epoch, index = item
        image = decode_rgb(self.images.read(index), self.images.keys[index])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, epoch, index))
            views = [transform(image) for transform in self.transforms]
        return views, int(self.images.labels[index])


class TrainingSampler(Sampler[tuple[int, int]]):
    """A process's share of the shuffled images; the incomplete last total batch is dropped, as published.

    Args:
        count: Images in all.
        total_batch: Images of one optimiser step over all processes.
        seed: Seed of the order.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, count: int, *, total_batch: int, seed: int, rank: int = 0, world: int = 1):
        if count < total_batch:
            raise UserError(f"batch {total_batch} is more than the {count} training images; make it smaller")
        self.count, self.total_batch, self.seed, self.rank, self.world = count, total_batch, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // self.total_batch * self.total_batch // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch, -1))
        order = torch.randperm(self.count, generator=generator)[: len(self) * self.world]
        return ((self.epoch, index) for index in order[self.rank :: self.world].tolist())


def training_loader(
    images: Images,
    transforms: Sequence[Transform],
    *,
    total_batch: int,
    batch: int,
    seed: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """Batches of ([views of (batch, 3, h, w)], labels (batch,)); set `loader.sampler.epoch` before each epoch.

    Args:
        images: Encoded images.
        transforms: One per view.
        total_batch: Images of one optimiser step over all processes and accumulated batches.
        batch: Images of one batch of this process.
        seed: Seed of order and views.
        workers: Worker processes; 0 loads in this one.
        rank: This process.
        world: Number of processes.
    """
    sampler = TrainingSampler(len(images), total_batch=total_batch, seed=seed, rank=rank, world=world)
    return DataLoader(
        Views(images, transforms, seed),
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def validation_loader(
    images: Images, transform: Transform, *, batch: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader:
    """Every image exactly once over all processes, in order."""
    return DataLoader(
        Views(images, [transform], seed=0),
        batch_size=batch,
        sampler=[(0, index) for index in range(rank, len(images), world)],
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
