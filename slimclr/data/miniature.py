"""A generated stand-in for ImageNet and COCO: a few megabytes, packed exactly as the official archives are.

The class of a photo is the texture of the shapes in it. Everything else (the texture's direction and scale, the shapes'
outlines and places, ground and lighting) is drawn independently of the class, and there is no colour: colour jitter
hides it only in part, so contrastive training would learn that and nothing else. A linear probe on a randomly
initialised network does badly; what two crops of one photo share is its texture. The objects of the COCO part are
outlined shapes, and their kind is the category.
"""

import gzip
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from slimclr.files import atomic_path, write_text

JPEG_QUALITY = 90
# Greatest distance from grey. Colours that colour jitter cannot hide would be a short cut for contrastive training.
CHROMA = 14.0
# Least and greatest length of a texture's period, in pixels.
PERIOD = (9.0, 18.0)
# Least and greatest radius of an object, as a share of the photo's shorter side.
COCO_RADIUS = (0.16, 0.30)
# Photos are drawn at twice their size and scaled down, which smooths the edges of the polygons.
OVERSAMPLING = 2
TRAIN_STREAM, VAL_STREAM, COCO_TRAIN_STREAM, COCO_VAL_STREAM, ORDER_STREAM = range(5)
# Tar members carry this time (6 June 2012, as the official archives do), so that the bytes depend on the seed alone.
ARCHIVE_TIME = 1338999999


def _wave(cycles: int, depth: float, points: int = 64) -> np.ndarray:
    """A closed curve whose radius swings `cycles` times between `1 - depth` and 1."""
    angle = np.linspace(0, 2 * math.pi, points, endpoint=False)
    radius = 1 - depth / 2 + depth / 2 * np.cos(cycles * angle)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star(spikes: int, inner: float) -> np.ndarray:
    """A star with `spikes` points whose dents lie at radius `inner`; without dents, a regular polygon."""
    angle = np.arange(2 * spikes) * math.pi / spikes
    radius = np.where(np.arange(2 * spikes) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _crescent() -> np.ndarray:
    """A moon: five sixths of the unit circle, closed by an arc that bends inwards."""
    outer = np.radians(np.linspace(50, 310, 30))
    radius = math.sin(math.radians(50)) / math.sin(math.radians(80))
    centre = math.cos(math.radians(50)) + radius * math.cos(math.radians(80))
    inner = np.radians(np.linspace(260, 100, 20)[1:-1])
    hollow = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), hollow])


def _ring() -> np.ndarray:
    """A ring with a gap, so that its outline is one polygon without a hole."""
    angle = np.radians(np.linspace(25, 335, 28))
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([outer, 0.6 * outer[::-1]])


def _cross(arm: float) -> np.ndarray:
    """An upright cross with arms `2 * arm` wide."""
    corners = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([corners @ np.linalg.matrix_power(turn, k) for k in range(4)])


# Outlines in units of the circumscribed circle, (points, 2). The order is that of the classes.
SHAPES: dict[str, np.ndarray] = {
    "disc": _wave(1, 0.0),
    "triangle": _star(3, 0.5),
    "cross": _cross(0.3),
    "star": _star(5, 0.42),
    "crescent": _crescent(),
    "bar": np.array([[1, -0.22], [1, 0.22], [-1, 0.22], [-1, -0.22]]),
    "square": _star(2, 1.0),
    "ring": _ring(),
}


def _triangle_wave(t: np.ndarray) -> np.ndarray:
    return 2 * np.abs(2 * (t - np.floor(t + 0.5))) - 1


def _lines(t: np.ndarray, half_width: float) -> np.ndarray:
    """Whether a coordinate is close to a whole number."""
    return np.abs(t - np.round(t)) < half_width


def _dark(where: np.ndarray) -> np.ndarray:
    return np.where(where, 1.0, -1.0)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    joint = u / 2 + 0.5 * (np.floor(v) % 2)
    return _dark(_lines(joint, 0.09) | _lines(v, 0.14))


def _blotches(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Waves of one length in many directions; the coordinates' offsets already are random.
    angles = np.linspace(0, math.pi, 7, endpoint=False)
    waves = [np.cos(2 * math.pi * (u * math.cos(a) + v * math.sin(a)) + 9.7 * i * i) for i, a in enumerate(angles)]
    return np.clip(sum(waves) / 2.0, -1, 1)


# Textures over coordinates in periods, values in -1..1. The order is that of the classes.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda u, v: np.sin(2 * math.pi * u),
    "checks": lambda u, v: np.sign(np.sin(2 * math.pi * u) * np.sin(2 * math.pi * v)),
    "dots": lambda u, v: _dark((u - np.round(u)) ** 2 + (v - np.round(v)) ** 2 < 0.11),
    "rings": lambda u, v: np.sin(2 * math.pi * np.hypot(u, v)),
    "zigzag": lambda u, v: np.sin(2 * math.pi * (u + 0.45 * _triangle_wave(v / 1.5))),
    "grid": lambda u, v: _dark(_lines(u, 0.14) | _lines(v, 0.14)),
    "blotches": _blotches,
    "bricks": _bricks,
}


def _tint(rng: np.random.Generator, level: float) -> np.ndarray:
    """A pale colour of the given brightness, (3,) in 0..255."""
    chroma = rng.uniform(-CHROMA, CHROMA, 3)
    return np.clip(level + chroma - chroma.mean(), 0, 255)


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A cloudy ground, (height, width, 3) in 0..255."""
    cells = int(rng.integers(2, 6))
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    cloud = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    first = _tint(rng, rng.uniform(112, 144))
    second = _tint(rng, first.mean() + rng.uniform(-20, 20))
    return first * cloud + second * (1 - cloud)


def _places(rng: np.random.Generator, count: int, height: int, width: int) -> list[tuple[float, float]]:
    """`count` places that keep apart: each is the farthest of some random candidates from those before it."""
    places: list[tuple[float, float]] = []
    for _ in range(count):
        candidates = rng.uniform((0.12 * width, 0.12 * height), (0.88 * width, 0.88 * height), (12, 2))
        if places:
            distance = np.linalg.norm(candidates[:, None] - np.array(places)[None], axis=2).min(axis=1)
            candidates = candidates[[int(distance.argmax())]]
        places.append((float(candidates[0, 0]), float(candidates[0, 1])))
    return places


def _paint(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A colour whose brightness stands clear of the ground's."""
    level = float(ground.mean())
    return _tint(rng, level + rng.choice([-1, 1]) * rng.uniform(60, 105))


def draw(
    rng: np.random.Generator, width: int, height: int, shapes: list[str], radius: tuple[float, float]
) -> tuple[Image.Image, list[np.ndarray]]:
    """Draw one photo.

    Args:
        rng: Source of everything that the class does not decide.
        width: Width in pixels.
        height: Height in pixels.
        shapes: Names out of `SHAPES`, one for each object, drawn in this order.
        radius: Least and greatest radius of an object, as a share of the shorter side.

    Returns:
        The photo and each object's outline, (points, 2), x and y in pixels. Outlines may leave the photo.
    """
    wide, high = width * OVERSAMPLING, height * OVERSAMPLING
    ground = _ground(rng, high, wide)
    canvas = Image.fromarray(ground.astype(np.uint8))
    brush = ImageDraw.Draw(canvas)
    outlines = []
    for name, place in zip(shapes, _places(rng, len(shapes), high, wide), strict=True):
        angle = rng.uniform(0, 2 * math.pi)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        outline = (SHAPES[name] * rng.uniform(*radius) * min(wide, high)) @ turn + place
        brush.polygon([tuple(point) for point in outline], fill=tuple(_paint(rng, ground).astype(int).tolist()))
        outlines.append(outline / OVERSAMPLING)
    photo = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    slope = rng.uniform(-0.12, 0.12, 2)
    across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    light = 1 + slope[0] * across[None, :, None] + slope[1] * down[:, None, None]
    noise = rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(photo * light + noise, 0, 255).astype(np.uint8)), outlines


def write_miniature(
    out: Path,
    *,
    seed: int = 0,
    classes: int = 8,
    train_per_class: int = 150,
    val_per_class: int = 40,
    coco_train: int = 160,
    coco_val: int = 40,
) -> None:
    """Write both data sets; the same arguments give the same bytes.

    Args:
        out: Folder for the three ImageNet archives and `coco/`.
        seed: Decides everything that is drawn by lot.
        classes: Number of classes, 2 to 8.
        train_per_class: Training photos per class, 72 to 96 pixels a side.
        val_per_class: Validation photos per class.
        coco_train: Training photos of COCO, 96 to 160 pixels a side.
        coco_val: Validation photos of COCO.

    Raises:
        ValueError: More classes than textures.
    """
    if not 2 <= classes <= len(TEXTURES):
        raise ValueError(f"classes is {classes}; the miniature has 2 to {len(TEXTURES)}")
    out = Path(out)
    names = list(TEXTURES)[:classes]
    wnids = [f"n{90000000 + 137 * rank:08d}" for rank in range(classes)]
    _write_train(out / "ILSVRC2012_img_train.tar", seed, names, wnids, train_per_class)
    order = np.random.default_rng([seed, ORDER_STREAM])
    # As in the official devkit, the ILSVRC ids 1, 2, ... do not follow the order of the WordNet ids.
    ids = np.roll(np.arange(1, classes + 1), classes // 2)[::-1]
    ranks = order.permutation(np.repeat(np.arange(classes), val_per_class))
    _write_val(out / "ILSVRC2012_img_val.tar", seed, names, ranks)
    _write_devkit(out / "ILSVRC2012_devkit_t12.tar.gz", names, wnids, ids, ids[ranks], train_per_class)
    _write_coco(out / "coco", "train2017", [seed, COCO_TRAIN_STREAM], list(SHAPES)[:classes], coco_train, first_id=1)
    _write_coco(
        out / "coco", "val2017", [seed, COCO_VAL_STREAM], list(SHAPES)[:classes], coco_val, first_id=coco_train + 1
    )


def _jpeg(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth random light and shade, (height, width) in about -0.5..0.5."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) - 0.5


def draw_texture(rng: np.random.Generator, width: int, height: int, texture: str) -> Image.Image:
    """Draw one photo of a class: three angular patches of the texture on a cloudy ground.

    Args:
        rng: Source of everything that the class does not decide.
        width: Width in pixels.
        height: Height in pixels.
        texture: A name in `TEXTURES`.
    """
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, 2 * math.pi), rng.uniform(*PERIOD)
    x, y = x - rng.uniform(0, width), y - rng.uniform(0, height)
    u = (x * math.cos(angle) + y * math.sin(angle)) / period
    v = (y * math.cos(angle) - x * math.sin(angle)) / period
    mask = Image.new("L", (width, height))
    brush = ImageDraw.Draw(mask)
    for _ in range(3):
        corners = int(rng.integers(3, 9))
        turn = rng.uniform(0, 2 * math.pi) + 2 * math.pi * np.arange(corners) / corners
        radius = rng.uniform(0.3, 0.5) * min(width, height) * rng.uniform(0.7, 1.0, corners)
        centre = rng.uniform(0.15, 0.85, 2) * (width, height)
        outline = centre + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        brush.polygon([tuple(point) for point in outline], fill=1)
    patch = 128 + 50 * TEXTURES[texture](u, v) + 40 * _cloud(rng, height, width, 4)
    ground = 128 + 70 * _cloud(rng, height, width, 4)
    photo = np.where(np.asarray(mask) == 1, patch, ground) + rng.normal(0, 4, (height, width))
    return Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).convert("RGB")


def _classified_photo(seeds: list[int], texture: str) -> bytes:
    rng = np.random.default_rng(seeds)
    width, height = (int(side) for side in rng.integers(72, 97, 2))
    return _jpeg(draw_texture(rng, width, height, texture))


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar whose bytes depend on names and contents alone."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), ARCHIVE_TIME
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as part:
        part.write_bytes(data)


def _write_train(path: Path, seed: int, names: list[str], wnids: list[str], per_class: int) -> None:
    inner = []
    for rank, (name, wnid) in enumerate(zip(names, wnids, strict=True)):
        photos = (
            (f"{wnid}_{n}.JPEG", _classified_photo([seed, TRAIN_STREAM, rank, n], name)) for n in range(per_class)
        )
        inner.append((f"{wnid}.tar", _tar(photos)))
    _write_bytes(path, _tar(inner))


def _write_val(path: Path, seed: int, names: list[str], ranks: np.ndarray) -> None:
    photos = (
        (f"ILSVRC2012_val_{n:08d}.JPEG", _classified_photo([seed, VAL_STREAM, n], names[rank]))
        for n, rank in enumerate(ranks, 1)
    )
    _write_bytes(path, _tar(photos))


def _write_devkit(
    path: Path, names: list[str], wnids: list[str], ids: np.ndarray, truth: np.ndarray, train_per_class: int
) -> None:
    """The devkit: `ids` are the classes' ILSVRC ids, `truth` those of the validation photos."""
    import scipy.io

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    none = np.zeros((1, 0))
    leaves = [
        (
            float(ids[rank]),
            wnids[rank],
            names[rank],
            f"photos of {names[rank]}",
            0.0,
            none,
            0.0,
            train_per_class,
        )
        for rank in np.argsort(ids)
    ]
    children = np.arange(1.0, len(names) + 1)[None]
    root = (len(names) + 1.0, "n00001740", "entity", "an inner node", float(len(names)), children, 1.0, 0)
    synsets = np.empty((len(names) + 1, 1), dtype=[(field, object) for field in (*fields, "num_train_images")])
    for row, values in enumerate([*leaves, root]):
        synsets[row, 0] = values
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": synsets})
    # The first 116 bytes are a free text, in which scipy puts the time of day.
    meta = b"MATLAB 5.0 MAT-file, SlimCLR miniature".ljust(116) + file.getvalue()[116:]
    lines = "".join(f"{number}\n" for number in truth).encode()
    folder = "ILSVRC2012_devkit_t12/data"
    archive = _tar([(f"{folder}/meta.mat", meta), (f"{folder}/ILSVRC2012_validation_ground_truth.txt", lines)])
    _write_bytes(path, gzip.compress(archive, mtime=0))


def _write_coco(root: Path, split: str, seeds: list[int], names: list[str], count: int, *, first_id: int) -> None:
    """One split of COCO; every 20th photo has no object, every 20th a crowd."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([*seeds, index])
        width, height = (int(side) for side in rng.integers(96, 161, 2))
        ranks = rng.integers(0, len(names), 0 if index % 20 == 7 else int(rng.integers(1, 6)))
        photo, outlines = draw(rng, width, height, [names[rank] for rank in ranks], COCO_RADIUS)
        identity = first_id + index
        _write_bytes(root / split / f"{identity:012d}.jpg", _jpeg(photo))
        images.append(
            {
                "license": 1,
                "file_name": f"{identity:012d}.jpg",
                "coco_url": "",
                "height": height,
                "width": width,
                "date_captured": "2012-06-06 00:00:00",
                "flickr_url": "",
                "id": identity,
            }
        )
        for number, (rank, outline) in enumerate(zip(ranks, outlines, strict=True)):
            crowd = index % 20 == 13 and number == 0
            annotations.append(
                {
                    **(_crowd(outline, width, height) if crowd else _polygon(outline, width, height)),
                    "iscrowd": int(crowd),
                    "image_id": identity,
                    "category_id": _category_id(int(rank)),
                    "id": identity * 10 + number,
                }
            )
    categories = [{"supercategory": "shape", "id": _category_id(rank), "name": name} for rank, name in enumerate(names)]
    content = {
        "info": {"description": f"SlimCLR miniature {split}", "version": "1.0", "year": 2012},
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    write_text(root / "annotations" / f"instances_{split}.json", json.dumps(content))


def _category_id(rank: int) -> int:
    """Ids with gaps, as COCO's."""
    return 3 * rank + 1


def _clip(outline: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of a polygon that lies within the photo (Sutherland and Hodgman, 1974), (points, 2)."""
    for axis, bound, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = sign * (outline[:, axis] - bound)
        kept = []
        for start, end, here, there in zip(outline, np.roll(outline, -1, 0), inside, np.roll(inside, -1), strict=True):
            if here >= 0:
                kept.append(start)
            if (here >= 0) != (there >= 0):
                kept.append(start + (end - start) * here / (here - there))
        outline = np.array(kept)
    return outline


def _polygon(outline: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """Segmentation, area and box of one object, in pixels, as far as it lies within the photo."""
    points = np.round(_clip(outline, width, height), 2)
    x, y = points.T
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    left, top = float(x.min()), float(y.min())
    box = [left, top, round(float(x.max()) - left, 2), round(float(y.max()) - top, 2)]
    return {"segmentation": [points.ravel().tolist()], "area": round(area, 4), "bbox": box}


def _crowd(outline: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """The same with the mask as run lengths, column by column, beginning with the ground, as COCO's crowds."""
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline], fill=1)
    mask = np.asarray(canvas)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(np.int8)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    segmentation = {"counts": counts, "size": [height, width]}
    return {"segmentation": segmentation, "area": int(mask.sum()), "bbox": [int(value) for value in box]}
