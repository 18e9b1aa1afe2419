"""What watches a training: nearest neighbours, and validation images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimclr.config import Pretrain, Probe, Validation
from slimclr.data.loading.base import Loader
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.engine.distributed import Process
from slimclr.errors import UserError
from slimclr.methods import Method, Supervised
from slimclr.nn import SlimmableLinear, SlimmableResNet, SwitchableLinear
from slimclr.probe import LinearProbe, OwnClassifier
from slimclr.probe.grid import GridProbe
from slimclr.probe.knn import KNNMonitor
from slimclr.probe.online import OnlineProbe
from slimclr.probe.validation import ValidationMonitor, fixed_part

Monitors = list[tuple[int, Callable[[], dict[str, Any]]]]
"""Epochs between two calls, and what gives values for the records."""


def build_monitors(
    recipe: Pretrain,
    method: Method,
    backbone: SlimmableResNet,
    images: Images,
    val: Path | None,
    *,
    seed: int,
    process: Process,
    online: OnlineProbe | None = None,
) -> Monitors:
    """The monitors of a pre-training.

    Args:
        recipe: What it asks for.
        method: What is trained.
        backbone: Its network.
        images: Training images.
        val: Validation images, for a recipe that asks for validation.
        seed: Seed of the choice of images.
        process: This process.
        online: The linear probe that learns beside it.

    Raises:
        UserError: There are no validation images, or fewer than the recipe asks for.
    """
    monitors: Monitors = []
    loader = None
    if recipe.validation is not None:
        if val is None or not val.exists():
            raise UserError(
                f"pretrain.validation: no validation images at {val}; name them with --val, or leave it out"
            )
        resize = round(recipe.image_size * 8 / 7)
        loader = _loader(recipe, recipe.validation, open_images(val), resize=resize, seed=seed, process=process)
    if recipe.knn is not None:
        knn = KNNMonitor(
            recipe.knn, backbone, images, image_size=recipe.image_size, seed=seed, process=process, val=loader
        )
        monitors.append((recipe.knn.every, knn))
    if recipe.validation is not None and loader is not None and isinstance(method, Supervised):
        own = method.encoder.head
        assert isinstance(own, SlimmableLinear | SwitchableLinear)
        classifier = OwnClassifier(backbone, own, len(images.classes))
        monitors.append((recipe.validation.every, ValidationMonitor(classifier, backbone, loader, process=process)))
    if recipe.validation is not None and loader is not None and online is not None:
        classifier = OwnClassifier(backbone, online.head, len(images.classes))
        monitors.append((recipe.validation.every, ValidationMonitor(classifier, backbone, loader, process=process)))
    return monitors


def build_online(
    recipe: Pretrain, method: Method, backbone: SlimmableResNet, images: Images, *, seed: int, process: Process
) -> OnlineProbe | None:
    """The linear probe that learns beside a pre-training on its device; None where the recipe asks for none."""
    if recipe.online is None:
        return None
    return OnlineProbe(method, backbone, len(images.classes), lr=recipe.online.lr, seed=seed, process=process)


def build_probe_monitors(
    recipe: Probe,
    method: LinearProbe | GridProbe,
    backbone: SlimmableResNet,
    val: Images,
    *,
    seed: int,
    process: Process,
) -> Monitors:
    """The monitors of linear probes; of a grid the first candidate is watched."""
    if recipe.validation is None:
        return []
    loader = _loader(recipe, recipe.validation, val, resize=recipe.resize, seed=seed, process=process)
    if isinstance(method, LinearProbe):
        return [(recipe.validation.every, ValidationMonitor(method, method, loader, process=process))]
    head = method.heads[0]
    assert isinstance(head, SwitchableLinear | SlimmableLinear)
    classifier = OwnClassifier(backbone, head, method.classes)
    return [(recipe.validation.every, ValidationMonitor(classifier, backbone, loader, process=process))]


def _loader(
    recipe: Pretrain | Probe, settings: Validation, val: Images, *, resize: int, seed: int, process: Process
) -> Loader:
    return validation_loader(
        val,
        resize=resize,
        image_size=recipe.image_size,
        batch=64,
        workers=recipe.workers,
        rank=process.rank,
        world_size=process.world_size,
        recipe=recipe.views if recipe.views.startswith("cifar") else "val",
        device=process.device,
        chosen=fixed_part(len(val), settings.images, seed, key="validation.images"),
    )
