"""Order and flips of the training images, by seed, epoch and image alone.

Neither loader workers nor where an epoch was interrupted change what a step sees.
"""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import DATA_SAMPLERS, DATASETS

from slimclr.seeds import derived_seed


@DATA_SAMPLERS.register_module()
class ResumableBatches(AspectRatioBatchSampler):
    """mmdet's batches of an epoch, from any of them on, as pairs of epoch and image."""

    epoch = first = 0

    def begin(self, epoch: int, first: int) -> None:
        """Which epoch comes next, and how many of its batches are left out."""
        self.epoch, self.first = epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        self.sampler.set_epoch(self.epoch)
        for images in islice(super().__iter__(), self.first, None):
            yield [(self.epoch, image) for image in images]


@DATASETS.register_module()
class SeededCoco(CocoDataset):
    """mmdet's COCO, whose random transforms draw anew for each epoch and image.

    Args:
        seed: Seed of the run.
        settings: mmdet's.
    """

    def __init__(self, *, seed: int, **settings: Any):
        self.seed = seed
        super().__init__(**settings)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """An image and its annotations.

        Args:
            key: Epoch and image.
        """
        epoch, image = key
        seed = derived_seed(self.seed, epoch, image)
        # mmcv's and mmdet's transforms draw from these two. Without workers the training has them, too.
        before = np.random.get_state(), random.getstate()
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        random.seed(seed)
        try:
            return super().__getitem__(image)
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])
