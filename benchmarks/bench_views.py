"""Two mocov2 views of 224 pixels per photo, on one core: Pillow's way against tensors and against DALI. Prints JSON.

`python -m benchmarks.bench_views [--photos FOLDER | --imagenet] [--step-rates 1300] [--quick]`. The paths take turns,
each round in the other order, and a ratio is the median over rounds of the ratio within a round, so that a machine that
slows down slows all of them. All paths get encoded photos from memory and end with normalised float tensors
(batch, 3, 224, 224). With `--step-rates`, images per second that GPUs train: the cores that each path needs for them.
"""

import argparse
import io
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from slimclr.data.images.decode import decode_rgb, read_header
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.draw import draw, view_rng
from slimclr.data.views.recipes import MEAN, STD, training_views
from slimclr.data.views.tensor import decode_tensor
from slimclr.machine import processor
from slimclr.plan.trial import photo

SIZE, BATCH = 224, 32
# The targets of the project: how much faster than `pil`.
TARGETS = {"dali": 1.5, "tensor": 1.3}


class Blur(v2.Transform):
    """Pillow's Gaussian blur with a radius from 0.1 to 2 pixels."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur one image."""
        return inpt.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * torch.rand(()).item()))


def plain_pil(photos: Sequence[bytes]) -> Callable[[], None]:
    """The published recipe as everyone writes it: torchvision's transforms on Pillow's images."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([Blur()], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def run() -> None:
        for start in range(0, len(photos), BATCH):
            images = [decode_rgb(data) for data in photos[start : start + BATCH]]
            for _ in range(2):
                torch.stack([transform(image) for image in images])

    return run


def ours(photos: Sequence[bytes], decode: Callable[[bytes], Any]) -> Callable[[], None]:
    """Our recipe by the torchvision interpreter, on what `decode` returns."""
    views = training_views("mocov2", image_size=SIZE)

    def run() -> None:
        for start in range(0, len(photos), BATCH):
            made: list[list[torch.Tensor]] = [[] for _ in views]
            for index, data in enumerate(photos[start : start + BATCH], start):
                image, header = decode(data), read_header(data)
                for number, view in enumerate(views):
                    drawn = draw(view, view_rng(0, 0, index, number), header.height, header.width)
                    made[number].append(apply_torchvision(view, drawn, image))
            for tensors in made:
                torch.stack(tensors)

    return run


def dali(photos: Sequence[bytes], *, decode_only: bool = False) -> Callable[[], None]:
    """Our recipe by the DALI interpreter, on the CPU with one thread."""
    from nvidia.dali import Pipeline, fn

    from slimclr.data.views import dali as dali_views

    views = training_views("mocov2", image_size=SIZE)

    def source(batch: int) -> tuple[Any, ...]:
        start = batch * BATCH % len(photos)
        files = photos[start : start + BATCH]
        headers = [read_header(data) for data in files]
        packed = [
            dali_views.pack(
                view,
                [
                    draw(view, view_rng(0, 0, index, number), header.height, header.width)
                    for index, header in enumerate(headers, start)
                ],
            )
            for number, view in enumerate(views)
        ]
        return [np.frombuffer(dali_views.dali_bytes(data), np.uint8) for data in files], *packed

    pipeline = Pipeline(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        encoded, *packed = fn.external_source(source, num_outputs=1 + len(views))
        if decode_only:
            pipeline.set_outputs(fn.decoders.image(encoded, adjust_orientation=False))
        else:
            pipeline.set_outputs(*dali_views.build(views, encoded, packed))
    pipeline.build()

    def run() -> None:
        for _ in range(0, len(photos), BATCH):
            pipeline.run()

    return run


def imagenet_sized(count: int) -> list[bytes]:
    """Photos of ImageNet's usual size, 500 x 375 pixels and about 115 kB."""
    with tempfile.TemporaryDirectory() as folder:
        # The same photo at so many places in memory: what it shows costs next to nothing.
        return [photo(Path(folder, f"{number}.jpg"), 500, 375).read_bytes() for number in range(count)]


def generated(count: int) -> list[bytes]:
    """Photos of 400 to 640 pixels as JPEGs: smooth forms and grain, about as many bytes as COCO's have."""
    rng, photos = np.random.default_rng(0), []
    for _ in range(count):
        width, height = rng.integers(400, 640, 2, endpoint=True).tolist()
        forms = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((width, height), 3)
        pixels = np.asarray(forms, np.float32) + rng.normal(0, 12, (height, width, 1))
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
        photos.append(stream.getvalue())
    return photos


def seconds(run: Callable[[], None]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(photos: Sequence[bytes], repeats: int, *, with_dali: bool = True) -> dict[str, Any]:
    """Photos per second of every path, and ratios to `pil`; DALI where it is installed."""
    paths = {
        "pil": plain_pil(photos),
        "pil_ours": ours(photos, decode_rgb),
        "tensor": ours(photos, decode_tensor),
        "pil_decode": lambda: [decode_rgb(data) for data in photos] and None,
        "tensor_decode": lambda: [decode_tensor(data) for data in photos] and None,
    }
    with_dali = with_dali and has_dali()
    if with_dali:
        paths |= {"dali": dali(photos), "dali_decode": dali(photos, decode_only=True)}
    for run in paths.values():
        run()
    rounds = []
    for number in range(repeats):
        order = list(paths) if number % 2 == 0 else list(reversed(paths))
        took = {name: seconds(paths[name]) for name in order}
        rounds.append(took)
    median = {name: statistics.median(took[name] for took in rounds) for name in paths}
    ratios = {
        name: [took["pil"] / took[name] for took in rounds] for name in ("pil_ours", "tensor", "dali") if name in paths
    }
    return {
        "photos_per_second": {name: round(len(photos) / median[name], 1) for name in ("pil", *ratios)},
        "faster_than_pil": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "spread": {name: [round(min(values), 2), round(max(values), 2)] for name, values in ratios.items()},
        "targets": TARGETS,
        "share_of_decoding": {
            name: round(median[f"{name}_decode"] / median[name], 2)
            for name in ("pil", "tensor", "dali")
            if name in paths
        },
        "without": [] if with_dali else ["dali"],
    }


def cores_needed(photos_per_second: Mapping[str, float], images_per_second: Mapping[str, float]) -> dict[str, Any]:
    """Cores that keep a GPU busy, by what trains and by path; each core takes as long as the one measured.

    Args:
        photos_per_second: Of one core, by path.
        images_per_second: Of the training steps of one GPU, by name.
    """
    return {
        name: {path: math.ceil(wanted / rate) for path, rate in photos_per_second.items()}
        for name, wanted in images_per_second.items()
    }


def has_dali() -> bool:
    """Whether DALI can be imported."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of JPEGs; without it, photos are generated")
    parser.add_argument("--imagenet", action="store_true", help="generated photos of 500 x 375 pixels and 115 kB")
    parser.add_argument("--step-rates", type=float, nargs="*", default=[], help="images/s of a GPU: cores for them")
    parser.add_argument("--count", type=int, default=128, help="photos to use, in whole batches of 32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one batch, once: does it run?")
    options = parser.parse_args()
    count, repeats = (BATCH, 1) if options.quick else (options.count // BATCH * BATCH, options.repeats)
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    if options.photos:
        files = [path.read_bytes() for path in sorted(options.photos.glob("*.jpg"))]
        fitting = [data for data in files if 400 <= max(read_header(data)[:2]) <= 640]
        photos = fitting[: min(count, len(fitting) // BATCH * BATCH)]
    else:
        photos = imagenet_sized(count) if options.imagenet else generated(count)
    result = {
        "photos": len(photos),
        "source": str(options.photos or ("generated, 500 x 375" if options.imagenet else "generated")),
        "mean_bytes": round(statistics.mean(map(len, photos))),
        "repeats": repeats,
        "machine": f"{processor()}, one core of {os.cpu_count()}",
    }
    result |= measure(photos, repeats)
    wanted = {f"{rate:g}": rate for rate in options.step_rates}
    result |= {"cores_for_images_per_second": cores_needed(result["photos_per_second"], wanted)} if wanted else {}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
