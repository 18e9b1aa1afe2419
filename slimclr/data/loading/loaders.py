"""Builds a loader for training or validation, by the name of its backend."""

from collections.abc import Sequence

import torch

from slimclr.config import Backend
from slimclr.data.loading.base import Loader
from slimclr.data.loading.samplers import TrainingSampler, ValidationSampler
from slimclr.data.loading.torchvision import TorchvisionLoader, Views
from slimclr.data.stores.base import Images
from slimclr.data.views.recipes import View, training_views, validation_view
from slimclr.errors import UserError

CPU = torch.device("cpu")


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
    world_size: int = 1,
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
        world_size: Number of processes.
        backend: "torchvision": Pillow's operations, as published; "torchvision_tensor": the same on tensors; "dali":
            DALI on the CPU; "dali_gpu": DALI with decoding and views on the GPU.
        device: For dali_gpu, the GPU.

    Raises:
        UserError: There are fewer images than one total batch, or DALI is missing.
        ValueError: Unknown recipe.
    """
    sampler = TrainingSampler(len(images), total_batch, batch, seed, rank, world_size)
    views = training_views(recipe, image_size=image_size, widths=widths)
    return _loader(sampler, images, views, seed=seed, workers=workers, backend=backend, device=device)


def validation_loader(
    images: Images,
    *,
    resize: int,
    image_size: int,
    batch: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
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
        workers: As for `training_loader`; so are rank, world_size, backend and device.
        rank: This process.
        world_size: Number of processes.
        recipe: A name under `validation` in `views.yaml`.
        backend: How the view is computed.
        device: For dali_gpu, the GPU.
        chosen: Only these images.
    """
    sampler = ValidationSampler(tuple(range(len(images)) if chosen is None else chosen), batch, rank, world_size)
    view = validation_view(recipe, resize=resize, image_size=image_size)
    return _loader(sampler, images, [view], seed=0, workers=workers, backend=backend, device=device)


def _loader(
    sampler: TrainingSampler | ValidationSampler,
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
        return TorchvisionLoader(sampler, data, workers=workers, pin=device.type == "cuda")
    try:
        from slimclr.data.loading.dali import DaliLoader
    except ImportError as error:
        raise UserError(
            f"loader {backend}: DALI cannot be imported ({error}); install it, or use torchvision_tensor"
        ) from None
    if backend == "dali_gpu" and device.type != "cuda":
        raise UserError("loader dali_gpu: needs a GPU; use dali")
    where = device if backend == "dali_gpu" else CPU
    return DaliLoader(sampler, images, views, seed=seed, workers=workers, device=where)
