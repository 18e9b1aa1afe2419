"""Photos through networks of several widths: each photo is read once, what cannot be read is named."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slimclr.data.loading.photos import photo_batches
from slimclr.data.stores.photos import open_photos
from slimclr.errors import UserError, printable
from slimclr.exporting.networks import Networks
from slimclr.exporting.plain import ResNet
from slimclr.progress import progress


@dataclass(frozen=True)
class Running:
    """How photos are read and where it is computed.

    Attributes:
        batch: Photos of a batch.
        workers: Processes that decode; 0 decodes in this one.
        gpus: 1: on a GPU.
        strict: A photo that cannot be read is an error, instead of being skipped.
    """

    batch: int = 64
    workers: int = 2
    gpus: int = 0
    strict: bool = False


USUAL = Running()


def passes(
    photos: Path, networks: Networks, compute: Callable[[ResNet, Tensor], Tensor], running: Running, *, name: str
) -> Iterator[tuple[list[str], dict[float, Tensor]]]:
    """Names of some photos, and what each width computes of them, in order.

    Photos that cannot be read are listed on stderr.

    Args:
        photos: See `open_photos`.
        networks: By width.
        compute: (network, images (n, 3, h, w)) to (n, ...).
        running: How.
        name: What progress is called.

    Raises:
        UserError: Not one can be read, or with `strict` one cannot.
    """
    opened, device = open_photos(photos), torch.device("cuda" if running.gpus else "cpu")
    keys: Sequence[str] = opened.keys
    for network in networks.by_width.values():
        network.to(device)
    skipped = done = 0
    view = networks.preprocessing.view
    with progress(name, len(opened)) as advance, torch.inference_mode():
        for batch in photo_batches(opened, view, batch=running.batch, workers=running.workers):
            for index, why in batch.skipped:
                if running.strict:
                    raise UserError(f"{photos}: {keys[index]}: {why}; mend it, or leave --strict out to skip it")
                print(f"skipped {printable(keys[index])}: {why}", file=sys.stderr, flush=True)
            skipped += len(batch.skipped)
            if batch.images is not None:
                done += len(batch.indices)
                images = batch.images.to(device, non_blocking=True)
                outputs = {width: compute(network, images).cpu() for width, network in networks.by_width.items()}
                yield [keys[index] for index in batch.indices], outputs
            advance(len(batch.indices) + len(batch.skipped))
    if not done:
        raise UserError(f"{photos}: no image there can be read ({skipped:,} skipped); give photos")
    if skipped:
        print(f"{skipped:,} of {len(opened):,} files skipped, {done:,} read", file=sys.stderr, flush=True)
