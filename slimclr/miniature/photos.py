"""Photos drawn from random numbers."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from slimclr.miniature.shapes import SHAPES, TEXTURES

JPEG_QUALITY = 90

# Greatest distance from grey. Colours that colour jitter cannot hide would be a short cut for contrastive training.
CHROMA = 14.0

# Least and greatest length of a texture's period, in pixels.
PERIOD = (9.0, 18.0)

# Photos are drawn at twice their size and scaled down, which smooths the edges of the polygons.
OVERSAMPLING = 2

TRAIN_STREAM, VAL_STREAM, COCO_TRAIN_STREAM, COCO_VAL_STREAM, ORDER_STREAM = range(5)


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


def jpeg(photo: Image.Image) -> bytes:
    """The photo as a JPEG file."""
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
