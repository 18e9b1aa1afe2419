"""Loaders: which images an epoch shows to which process, and in which order.

The order depends on (seed, epoch) alone and the random views of an image on (seed, epoch, image) alone: neither the
loader, nor the number of its workers, nor an interruption changes what the network sees.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from slimclr.data.decode import decode_rgb
from slimclr.data.views import (
    View,
    apply_torchvision,
    decode_tensor,
    draw,
    training_views,
    validation_view,
    view_rng,
)
from slimclr.errors import UserError
from slimclr.seeds import derived_seed

Batch = tuple[list[Tensor], Tensor]
Backend = Literal["torchvision", "torchvision_tensor", "dali", "dali_gpu"]
CPU = torch.device("cpu")


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


@dataclass(frozen=True)
class TrainingOrder:
    """A process's share of the shuffled images; the incomplete last total batch is dropped, as published.

    Attributes:
        count: Images in all.
        total_batch: Images of one optimiser step over all processes.
        batch: Images of one batch of this process.
        seed: Seed of the order.
        rank: This process.
        world: Number of processes.

    Raises:
        UserError: There are fewer images than one total batch.
    """

    count: int
    total_batch: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.count < self.total_batch:
            raise UserError(f"batch {self.total_batch} is more than the {self.count} training images; make it smaller")

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.count // self.total_batch * self.total_batch // self.world // self.batch

    def batches(self, epoch: int, start: int = 0) -> list[np.ndarray]:
        """Indices of the images of each batch from `start` on."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, -1))
        used = len(self) * self.batch * self.world
        own = torch.randperm(self.count, generator=generator)[:used].numpy()[self.rank :: self.world]
        return list(own.reshape(len(self), self.batch)[start:])


@dataclass(frozen=True)
class ValidationOrder:
    """Every image exactly once over all processes, in order; the last batch may be smaller."""

    indices: tuple[int, ...]
    batch: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        """Batches of this process."""
        return -(-len(self.indices[self.rank :: self.world]) // self.batch)

    def batches(self, epoch: int, start: int = 0) -> list[np.ndarray]:
        """Indices of the images of each batch from `start` on; every epoch is the same."""
        own = np.array(self.indices[self.rank :: self.world])
        return [own[at : at + self.batch] for at in range(start * self.batch, len(own), self.batch)]


class Loader:
    """Batches of ([views of (batch, 3, h, w)], labels (batch,)), from where it stands to the end of the epoch.

    `state_dict()` says where it stands: after k batches of an epoch were taken, a loader that is given that state goes
    on with batch k, whatever its backend and workers.

    Attributes:
        order: Which images come in which batch.
        epoch: The epoch that it stands in.
        batch: The batch of that epoch that comes next.
    """

    def __init__(self, order: TrainingOrder | ValidationOrder):
        self.order = order
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch; then it stands at the beginning of the next one."""
        batches = self._batches(self.epoch, self.batch)
        while (batch := _next(batches)) is not None:
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Stand there."""
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        raise NotImplementedError


def _next(batches: Iterator[Batch]) -> Batch | None:
    """The next batch, if there is one; what a worker process says is wrong comes without the worker's traceback."""
    try:
        return next(batches, None)
    except Exception as error:
        told = re.findall(r"UserError: (.+)", str(error))
        raise (UserError(told[-1]) if told else error) from None


class Views(Dataset):
    """Views of one image; what is random about them is drawn from (seed, epoch, index).

    Args:
        images: Encoded images.
        views: Recipes of the views.
        seed: Seed of the views.
        tensors: Compute on tensors instead of Pillow's images.
    """

    def __init__(self, images: Images, views: Sequence[View], *, seed: int, tensors: bool):
        self.images, self.views, self.seed, self.tensors = images, tuple(views), seed, tensors

    def __getitem__(self, item: tuple[int, int]) -> tuple[list[Tensor], int]:
        """Views (3, size, size) and label of the image `index` in `epoch`."""
        epoch, index = item
        data, key = self.images.read(index), self.images.keys[index]
        image: Image.Image | Tensor
        if self.tensors:
            image = decode_tensor(data, key)
            height, width = image.shape[1:]
        else:
            image = decode_rgb(data, key)
            height, width = image.height, image.width
        views = []
        for number, view in enumerate(self.views):
            drawn = draw(view, view_rng(self.seed, epoch, index, number), height, width)
            views.append(apply_torchvision(view, drawn, image))
        return views, int(self.images.labels[index])


class _Items(Sampler[list[tuple[int, int]]]):
    """(epoch, index) of every image of a batch, from where its loader stands."""

    def __init__(self, order: TrainingOrder | ValidationOrder):
        self.order, self.epoch, self.start = order, 0, 0

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.order.batches(self.epoch, self.start):
            yield [(self.epoch, index) for index in batch.tolist()]


class TorchvisionLoader(Loader):
    """Batches out of torch's DataLoader, whose workers stay from epoch to epoch.

    Args:
        order: Which images come in which batch.
        data: Their views.
        workers: Worker processes; 0 loads in this one.
        pin: Copy batches into pinned memory, which wants a context on a GPU.
    """

    def __init__(self, order: TrainingOrder | ValidationOrder, data: Dataset, *, workers: int, pin: bool = False):
        super().__init__(order)
        self._items = _Items(order)
        self._loader: DataLoader = DataLoader(
            data,
            batch_sampler=self._items,
            num_workers=workers,
            pin_memory=pin,
            persistent_workers=workers > 0,
        )

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        self._items.epoch, self._items.start = epoch, start
        yield from self._loader


def training_loader(
    images: Images,
    recipe: str,
    *,
    image_size: int,
    widths: int = 1,
    total_batch: int,
    batch: int,
    seed: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    backend: Backend = "torchvision",
    device: torch.device = CPU,
) -> Loader:
    """Shuffled random views.

    Args:
        images: Encoded images.
        recipe: A name under `training` in `views.yaml`.
        image_size: Side of a view in pixels.
        widths: Number of widths; where sub-networks have views of their own, theirs follow the recipe's.
        total_batch: Images of one optimiser step over all processes and accumulated batches.
        batch: Images of one batch of this process.
        seed: Seed of order and views.
        workers: Worker processes, or DALI's threads; 0 loads in this process.
        rank: This process.
        world: Number of processes.
        backend: "torchvision": Pillow's operations, as published; "torchvision_tensor": the same on tensors; "dali":
            DALI on the CPU; "dali_gpu": DALI with decoding and views on the GPU.
        device: For dali_gpu, the GPU.

    Raises:
        UserError: There are fewer images than one total batch, or DALI is missing.
        ValueError: Unknown recipe.
    """
    order = TrainingOrder(len(images), total_batch, batch, seed, rank, world)
    views = training_views(recipe, image_size=image_size, widths=widths)
    return _loader(order, images, views, seed=seed, workers=workers, backend=backend, device=device)


def validation_loader(
    images: Images,
    *,
    resize: int,
    image_size: int,
    batch: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    recipe: str = "val",
    backend: Backend = "torchvision",
    device: torch.device = CPU,
    chosen: Sequence[int] | None = None,
) -> Loader:
    """Every image exactly once over all processes, in order.

    Args:
        images: Encoded images.
        resize: Length of the shorter side before the centre crop.
        image_size: Side of the crop.
        batch: Images of one batch.
        workers: As for `training_loader`; so are rank, world, backend and device.
        rank: This process.
        world: Number of processes.
        recipe: A name under `validation` in `views.yaml`.
        backend: How the view is computed.
        device: For dali_gpu, the GPU.
        chosen: Only these images.
    """
    order = ValidationOrder(tuple(range(len(images)) if chosen is None else chosen), batch, rank, world)
    view = validation_view(recipe, resize=resize, image_size=image_size)
    return _loader(order, images, [view], seed=0, workers=workers, backend=backend, device=device)


def _loader(
    order: TrainingOrder | ValidationOrder,
    images: Images,
    views: Sequence[View],
    *,
    seed: int,
    workers: int,
    backend: Backend,
    device: torch.device,
) -> Loader:
    if not backend.startswith("dali"):
        data = Views(images, views, seed=seed, tensors=backend == "torchvision_tensor")
        return TorchvisionLoader(order, data, workers=workers, pin=device.type == "cuda")
    try:
        from slimclr.data.dali_loader import DaliLoader
    except ImportError as error:
        raise UserError(
            f"loader {backend}: DALI cannot be imported ({error}); install it, or use torchvision_tensor"
        ) from None
    if backend == "dali_gpu" and device.type != "cuda":
        raise UserError("loader dali_gpu: needs a GPU; use dali")
    where = device if backend == "dali_gpu" else CPU
    return DaliLoader(order, images, views, seed=seed, workers=workers, device=where)
