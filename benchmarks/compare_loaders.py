"""Whether DALI and Pillow make the same views of real photos. Prints JSON; nothing is timed.

`python -m benchmarks.compare_loaders --photos FOLDER [FOLDER ...] [--quick]`. For each folder, the `val` images of
both: mean absolute difference, and how often a fixed network decides alike. For each random view of `views.yaml`,
2,000 draws of one photo in each implementation, with different seeds, and how far the distributions of brightness,
saturation, hue, blur and crop area are apart (Kolmogorov-Smirnov).
"""

import argparse
import io
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor

from benchmarks.bench_views import generated
from benchmarks.view_tools import BATCH, dali_batches, drawn_views, ks_limit, measured, pixels, random_views
from slimclr.data.images.decode import decode_rgb
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.dali import finish
from slimclr.data.views.draw import Drawn, draw, view_rng
from slimclr.data.views.recipes import View, validation_view
from slimclr.machine import processor
from slimclr.nn import build_backbone

# The targets of the project.
DIFFERENCE, SAME = 2.0, 0.99
CLASSES = (10, 1000)
# A view of CIFAR-10 is of a photo of this side.
SMALL = 32


class Network:
    """A random ResNet-50 as `build_backbone` makes it, every branch active, with random classifiers.

    Features are taken from the centre of the first photos': a random network otherwise decides for one class whatever
    it sees. Its batch norms keep their initial statistics; with those of photos, a network that has not learnt anything
    amplifies any difference from block to block.

    Args:
        first: Normalised views (n, 3, h, w).
        seed: Of the weights.
    """

    def __init__(self, first: Tensor, seed: int = 0):
        torch.manual_seed(seed)
        self.backbone = build_backbone(depth=50, base_width=64, widths=(1.0,), zero_init_residual=False).eval()
        with torch.no_grad():
            self.centre = self.backbone(first, 1.0).mean(0)
        self.classifiers = [torch.randn(len(self.centre), count) for count in CLASSES]

    @torch.no_grad()
    def decide(self, views: Tensor) -> list[Tensor]:
        """The class of every view, for each of `CLASSES`."""
        features = self.backbone(views, 1.0) - self.centre
        return [(features @ classifier).argmax(1) for classifier in self.classifiers]


def pillow_batches(view: View, files: Sequence[bytes], drawn: Sequence[Drawn]) -> Iterator[np.ndarray]:
    """As `dali_batches`, by torchvision on Pillow's images."""
    for start in range(0, len(files), BATCH):
        pairs = zip(files[start : start + BATCH], drawn[start : start + BATCH], strict=True)
        yield np.stack([apply_torchvision(view, one, decode_rgb(data)).numpy() for data, one in pairs])


def compare_validation(files: Sequence[bytes]) -> dict[str, Any]:
    """Differences of the `val` images and shares of the same decisions."""
    view = validation_view(resize=256, image_size=224)
    sizes = [decode_rgb(data).size for data in files]
    drawn = [draw(view, view_rng(0, 0, 0, 0), height, width) for width, height in sizes]
    network, differences = None, list[np.ndarray]()
    decisions: list[list[list[Tensor]]] = [[[], []] for _ in CLASSES]
    for theirs, ours in zip(pillow_batches(view, files, drawn), dali_batches(view, files, drawn), strict=True):
        differences.append(np.abs(pixels(ours, view) - pixels(theirs, view)).mean((1, 2, 3)))
        network = network or Network(torch.from_numpy(theirs))
        for which, made in enumerate((theirs, ours)):
            for number, decided in enumerate(network.decide(torch.from_numpy(made))):
                decisions[number][which].append(decided)
    difference = np.concatenate(differences)
    told = {}
    for count, both in zip(CLASSES, decisions, strict=True):
        pillow, dali = (torch.cat(one) for one in both)
        told[f"of_{count}_classes"] = {
            "same": round(float((pillow == dali).float().mean()), 4),
            "classes_decided_for": len(pillow.unique()),
        }
    return {
        "photos": len(files),
        "mean_difference_of_255": {
            "mean": round(float(difference.mean()), 3),
            "99_percent": round(float(np.quantile(difference, 0.99)), 3),
            "max": round(float(difference.max()), 3),
        },
        "top1_decisions": told,
    }


def compare_random(view: View, data: bytes, draws: int) -> dict[str, float]:
    """Kolmogorov-Smirnov statistics of one view of one photo."""
    torch.set_num_threads(1)
    width, height = decode_rgb(data).size
    found = []
    for seed, make in ((1, pillow_batches), (2, dali_batches)):
        drawn = drawn_views(view, draws, height, width, seed)
        parts = [measured(made, view) for made in make(view, [data] * draws, drawn)]
        values = {what: np.concatenate([part[what] for part in parts]) for what in parts[0]}
        found.append(values | {"area": np.array([one.height * one.width for one in drawn])})
    return {what: round(float(ks_2samp(found[0][what], found[1][what]).statistic), 4) for what in found[0]}


def shrunk(data: bytes) -> bytes:
    """The photo at CIFAR-10's size, as a PNG."""
    stream = io.BytesIO()
    decode_rgb(data).resize((SMALL, SMALL), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def compare_views(data: bytes, draws: int) -> dict[str, dict[str, float]]:
    """`compare_random` of every random view; those of CIFAR-10 are of the photo at its size."""
    small, views = shrunk(data), random_views()
    # DALI's threads do not live through a fork.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        photos = [small if view.size == SMALL else data for view in views.values()]
        return dict(zip(views, pool.map(compare_random, views.values(), photos, repeat(draws)), strict=True))


def read_photos(folder: Path, count: int) -> list[bytes]:
    """The first photos in a folder and the folders below it, spread evenly."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise SystemExit(f"{folder}: no .jpg or .JPEG in it")
    return [paths[index].read_bytes() for index in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, nargs="+", help="folders of JPEGs; without, photos are generated")
    parser.add_argument("--count", type=int, default=500, help="photos of each folder at most (default 500)")
    parser.add_argument("--draws", type=int, default=2000, help="draws of each view of the first photo (default 2000)")
    parser.add_argument("--quick", action="store_true", help="few photos and draws: does it run?")
    options = parser.parse_args()
    count, draws = (4, 50) if options.quick else (options.count, options.draws)
    if options.photos:
        folders = {str(folder): read_photos(folder, count) for folder in options.photos}
    else:
        folders = {"generated": generated(count)}
    views = compare_views(next(iter(folders.values()))[0], draws)
    result = {
        "machine": processor(),
        "dali": "compiled by numba" if finish is not None else "DALI's own operators",
        "validation": {name: compare_validation(files) for name, files in folders.items()},
        "validation_targets": {"mean_difference_of_255": DIFFERENCE, "same": SAME},
        "draws": draws,
        "kolmogorov_smirnov": views,
        "kolmogorov_smirnov_greatest": max(value for view in views.values() for value in view.values()),
        "kolmogorov_smirnov_limit": round(ks_limit(draws), 4),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
