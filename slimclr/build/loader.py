"""The batches of a recipe, as one process sees them."""

from collections.abc import Sequence
from typing import Literal

from slimclr.config import Backend, FineTune, Pretrain, Probe
from slimclr.data.loading.base import Loader
from slimclr.data.loading.loaders import training_loader, validation_loader
from slimclr.data.stores.base import Images
from slimclr.data.views.tensor import decodes_jpegs
from slimclr.engine.distributed import Process


def build_training_loader(
    recipe: Pretrain | Probe | FineTune,
    images: Images,
    *,
    batch: int,
    seed: int,
    process: Process,
    widths: Sequence[float] = (1.0,),
) -> Loader:
    """Augmented batches of the training images.

    Args:
        recipe: What is trained.
        images: Training images.
        batch: Images of one batch of this process.
        seed: Seed of order and views.
        process: This process.
        widths: Widths that are trained; a recipe may give each a view of its own.
    """
    return training_loader(
        images,
        recipe.views,
        image_size=recipe.image_size,
        widths=len(widths),
        total_batch=recipe.batch,
        batch=batch,
        seed=seed,
        workers=recipe.workers,
        rank=process.rank,
        world_size=process.world_size,
        backend=chosen_backend(recipe.loader, process),
        device=process.device,
    )


def chosen_backend(loader: Backend | Literal["auto"], process: Process) -> Backend:
    """The backend that a recipe names, or for auto the fastest on this machine that needs no further package."""
    if loader != "auto":
        return loader
    if process.device.type != "cuda":
        return "torchvision"
    if decodes_jpegs():
        return "torchvision_tensor"
    if process.main:
        print(
            "loader auto: this torchvision cannot decode JPEGs; Pillow's operations instead, which are slower",
            flush=True,
        )
    return "torchvision"


def build_validation_loader(recipe: Probe | FineTune, images: Images, *, process: Process) -> Loader:
    """This process's share of the validation images, in quarters of the training's batch."""
    return validation_loader(
        images,
        resize=recipe.resize,
        image_size=recipe.image_size,
        batch=validation_batch(recipe, process),
        workers=recipe.workers,
        rank=process.rank,
        world_size=process.world_size,
        recipe=recipe.views if recipe.views.startswith("cifar") else "val",
        backend=recipe.loader,
        device=process.device,
    )


def validation_batch(recipe: Probe | FineTune, process: Process) -> int:
    """Images of a validation batch of one process."""
    return max(1, recipe.batch // process.world_size // 4)
