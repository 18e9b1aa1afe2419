"""Evaluation of a trained classifier, without a training."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from slimclr import results
from slimclr.arch import CIFAR_BLOCKS
from slimclr.config import Backend
from slimclr.data.loading.base import Loader
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages
from slimclr.data.stores.numbered import Numbered
from slimclr.data.stores.recordio import RecordImages
from slimclr.errors import UserError
from slimclr.files import write_json
from slimclr.nn.placement import allow_tf32, place
from slimclr.nn.untrained import recalibrate
from slimclr.probe import OwnClassifier
from slimclr.probe.accuracies import show, show_lowest, values_by_class, values_of
from slimclr.probe.evaluation import count_right
from slimclr.probe.opened import Opened, Pictures, open_classifier, with_widths

BATCH = 256
_SHOWN = 3


@dataclass(frozen=True)
class Running:
    """How images are read and where it is computed; it decides no result.

    Attributes:
        batch: Images of a batch; None: as many as when a probe's classifier was evaluated, else 256.
        workers: Loader processes.
        loader: Backend of the loader; None: the one that read them then, else torchvision.
        gpus: 1, or 0 for the CPU.
        tf32: A GPU's convolutions and matrix products may use TF32.
    """

    batch: int | None = None
    workers: int = 4
    loader: Backend | None = None
    gpus: int = 0
    tf32: bool = True


def evaluate(
    weights: Path,
    *,
    data: Path,
    classifier: Path | None = None,
    widths: Sequence[float] | None = None,
    recalibrate_on: Path | None = None,
    recalibrate_images: int = 4096,
    by_class: bool = False,
    resize: int | None = None,
    image_size: int | None = None,
    views: str | None = None,
    running: Running = Running(),
    out: Path | None = None,
) -> None:
    """Print top-1 and top-5 accuracy of every width with their 95 % intervals, and write them as JSON.

    Args:
        weights: `weights.safetensors` with a classifier of its own, or the backbone of `classifier`.
        data: Images, an LMDB, RecordIO files or a folder of classes.
        classifier: `classifier.safetensors` of a probe.
        widths: Widths; None: those that were trained.
        recalibrate_on: Training images for batch norms of widths that were never trained.
        recalibrate_images: How many of them, evenly spread.
        by_class: Accuracies of every class, too.
        resize: The shorter side before the centre crop in pixels; None: as the files say, else 256.
        image_size: Side of that crop; None: as the files say, else 224.
        views: The recipe of augmentation that validation follows; None: as the files say.
        running: How images are read and where it is computed.
        out: JSON to write.

    Raises:
        UserError: A file, its classes or a width do not fit, or there is nothing to recalibrate a width on.
    """
    started = time.time()
    opened = open_classifier(weights, classifier)
    images, names = _numbered_as(opened, open_images(data), data, classifier or weights)
    pictures = _pictures(opened, resize, image_size, views)
    running = _as_before(running, opened)
    device = _device(running)
    network, further = _at_widths(opened.classifier, widths, recalibrate_on, weights)
    place(network, device)
    used = 0
    if further and recalibrate_on is not None:
        batches = _training_batches(recalibrate_on, recalibrate_images, pictures, running, device)
        used = recalibrate(network.backbone, further, batches)
    clock, begin = _Timed(network, device), time.perf_counter()
    counts = count_right(clock, _loader(images, pictures, running, device), device)
    rate = len(images) / (time.perf_counter() - begin)
    values = values_of(counts, seconds=clock.seconds, further=further)
    show(values, counts, rate=rate, recalibrated_on=used)
    about: dict[str, Any] = {"run": opened.run, "seed": None, "recipe": None, "started": started}
    about |= {"arch": network.backbone.arch, "images": len(images), "classes": network.classes, "widths": values}
    about |= {"pictures": vars(pictures), "images_per_s": round(rate, 1), "recalibrated_on": used}
    if by_class:
        about["by_class"] = values_by_class(counts, names)
        show_lowest(about["by_class"], str(network.widths[0]))
    if out is not None:
        about |= {"data": {"images": images_digest(images.images)}, "weights_sha256": opened.weights_sha256}
        write_json(out, results.document("evaluate", **about))


def _as_before(running: Running, opened: Opened) -> Running:
    """With what a probe's classifier was evaluated with, where nothing else is asked for."""
    known = cast(Backend, opened.loader) if opened.loader in get_args(Backend) else None
    return replace(
        running,
        batch=running.batch or opened.batch or BATCH,
        loader=running.loader or known,
    )


def _device(running: Running) -> torch.device:
    allow_tf32(running.tf32)
    return torch.device("cuda" if running.gpus else "cpu")


def _numbered_as(
    opened: Opened, images: FolderImages | LMDBImages | RecordImages, data: Path, file: Path
) -> tuple[Numbered, Sequence[str]]:
    """The images with the classifier's own numbers of their classes, and the names of its classes.

    The data set may lack some of the classes.

    Raises:
        UserError: It has other ones, or another number of them where the classifier's have no names.
    """
    count = opened.classifier.classes
    if opened.classes is None:
        if len(images.classes) != count:
            raise UserError(
                f"{data}: has {len(images.classes):,} classes, but the classifier in {file} has {count:,} and does not "
                "name them; give a data set with all of its classes"
            )
        return Numbered(images, images.labels), images.classes
    unknown = sorted(set(images.classes) - set(opened.classes))
    if unknown:
        raise UserError(
            f"{data}: {len(unknown):,} of its {len(images.classes):,} classes ({', '.join(unknown[:_SHOWN])}"
            f"{', ...' if len(unknown) > _SHOWN else ''}) are none of the {count:,} of the classifier in {file}; give "
            "a data set of its classes, named by WordNet id"
        )
    if len(images.classes) < count:
        print(f"{data}: has {len(images.classes):,} of the classifier's {count:,} classes; it may answer all of them")
    number = {name: at for at, name in enumerate(opened.classes)}
    labels = np.array([number[name] for name in images.classes], dtype=np.int64)[images.labels]
    return Numbered(images, labels), opened.classes


def _at_widths(
    trained: OwnClassifier, wanted: Sequence[float] | None, recalibrate_on: Path | None, weights: Path
) -> tuple[OwnClassifier, list[float]]:
    """The classifier at the widths that are wanted, and which of them were never trained."""
    known = ", ".join(map(str, trained.widths))
    widths = trained.widths if wanted is None else tuple(sorted(set(wanted), reverse=True))
    further = [width for width in widths if width not in trained.widths]
    if further and recalibrate_on is None:
        raise UserError(
            f"{weights}: width {further[0]} was never trained (trained: {known}); give --recalibrate with training "
            "images for its batch norms, or choose a trained one"
        )
    if recalibrate_on is not None and not further:
        raise UserError(
            f"--recalibrate {recalibrate_on}: every width was trained ({known}); name others with --widths, or leave "
            "it out"
        )
    try:
        return with_widths(trained, widths), further
    except ValueError as error:
        raise UserError(
            f"{weights}: cannot be evaluated at {', '.join(map(str, further))}: {error}; choose others"
        ) from None


def _pictures(opened: Opened, resize: int | None, image_size: int | None, views: str | None) -> Pictures:
    """As asked for, else as the files say, else as networks of this kind usually are evaluated."""
    cifar = opened.classifier.backbone.depth in CIFAR_BLOCKS
    usual = Pictures(32, 32, "cifar_supervised") if cifar else Pictures(256, 224, "normal")
    known = opened.pictures or usual
    return Pictures(resize or known.resize, image_size or known.image_size, views or known.views)


def _loader(
    images: Images, pictures: Pictures, running: Running, device: torch.device, chosen: Sequence[int] | None = None
) -> Loader:
    return validation_loader(
        images,
        resize=pictures.resize,
        image_size=pictures.image_size,
        batch=running.batch or BATCH,
        workers=running.workers,
        recipe=pictures.validation,
        backend=running.loader or "torchvision",
        device=device,
        chosen=chosen,
    )


def _training_batches(
    path: Path, wanted: int, pictures: Pictures, running: Running, device: torch.device
) -> Iterator[Tensor]:
    """Batches of training images, evenly spread and equally large, in the view of validation."""
    images = open_images(path)
    there = min(wanted, len(images))
    batch = min(running.batch or BATCH, there)
    if batch < 2:
        raise UserError(f"{path}: batch norm needs two images, here it has {there}; give more")
    # In the order of their classes, then shuffled: a batch should have many classes.
    order = np.argsort(images.labels, kind="stable")
    chosen = order[np.linspace(0, len(order), there // batch * batch, endpoint=False).astype(int)]
    chosen = np.random.default_rng(0).permutation(chosen)
    for (views,), _ in _loader(images, pictures, replace(running, batch=batch), device, chosen.tolist()):
        yield views.to(device, memory_format=torch.channels_last)


class _Timed:
    """A classifier that measures how long each width computes."""

    def __init__(self, classifier: OwnClassifier, device: torch.device):
        self.classifier, self.device = classifier, device
        self.widths, self.classes = classifier.widths, classifier.classes
        self.seconds = dict.fromkeys(classifier.widths, 0.0)

    def eval(self) -> None:
        self.classifier.eval()

    def logits(self, images: Tensor, width: float) -> Tensor:
        self._wait()
        begin = time.perf_counter()
        logits = self.classifier.logits(images, width)
        self._wait()
        self.seconds[width] += time.perf_counter() - begin
        return logits

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
