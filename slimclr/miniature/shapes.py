"""Outlines of objects and textures of photos: the classes of the miniature."""

import math
from collections.abc import Callable

import numpy as np


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
