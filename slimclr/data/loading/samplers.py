"""Samplers: which images each process gets in an epoch, batch by batch.

The order depends on (seed, epoch) alone: it is the same for every loader and number of workers, and after a resume.
"""

from dataclasses import dataclass

import numpy as np
import torch

from slimclr.errors import UserError
from slimclr.seeds import derived_seed


@dataclass(frozen=True)
class TrainingSampler:
    """One process's share of the shuffled images; an incomplete last total batch is dropped, as published.

    A step's images are dealt in order: the first process has the first of them, in its first batch the first of those.
    The batches of a step are the same on one process and on several.

    Attributes:
        count: Images in all.
        total_batch: Images of one optimiser step over all processes.
        batch: Images of one batch of this process.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        UserError: There are fewer images than one total batch.
    """

    count: int
    total_batch: int
    batch: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.count < self.total_batch:
            raise UserError(f"batch {self.total_batch} is more than the {self.count} training images; make it smaller")

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.count // self.total_batch * self.total_batch // self.world_size // self.batch

    def batches(self, epoch: int, start: int = 0) -> list[np.ndarray]:
        """Indices of the images of each batch from `start` on."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, -1))
        used = len(self) * self.batch * self.world_size
        order = torch.randperm(self.count, generator=generator)[:used].numpy()
        own = order.reshape(-1, self.world_size, self.total_batch // self.world_size)[:, self.rank]
        return list(own.reshape(len(self), self.batch)[start:])


@dataclass(frozen=True)
class ValidationSampler:
    """Every image exactly once over all processes, in order; the last batch may be smaller."""

    indices: tuple[int, ...]
    batch: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        """Batches of this process."""
        return -(-len(self.indices[self.rank :: self.world_size]) // self.batch)

    def batches(self, epoch: int, start: int = 0) -> list[np.ndarray]:
        """Indices of the images of each batch from `start` on; every epoch is the same."""
        own = np.array(self.indices[self.rank :: self.world_size])
        return [own[at : at + self.batch] for at in range(start * self.batch, len(own), self.batch)]
