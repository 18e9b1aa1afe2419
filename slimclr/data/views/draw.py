"""The random numbers of one view of one image.

They are drawn here as plain numbers (`draw` -> `Drawn`); the implementations (`pillow`, `tensor`, `dali`) only apply
them. So an image's view depends on (seed, epoch, image, view) alone: not on the loader, its workers, or a
resume.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slimclr.data.views.recipes import Share, Triple, View
from slimclr.seeds import derived_seed

# The crop's aspect ratio, and how often a box is drawn before the centre is taken (torchvision's RandomResizedCrop).
RATIO, TRIES = (3 / 4, 4 / 3), 10

# Deviation of the Gaussian blur in pixels, from and to.
SIGMA = (0.1, 2.0)

# AlexNet's PCA lighting.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])

EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

Colour = Literal["brightness", "contrast", "saturation", "hue", "grey"]

JITTERS: tuple[Colour, ...] = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True, slots=True)
class Drawn:
    """The random numbers of one view of one image.

    Attributes:
        top: First row of the box that is cropped; a padded crop's may lie outside the image, as may its column.
        left: First column.
        height: Rows of the box.
        width: Columns of the box.
        colours: (operation, factor) in the order to apply them; hue in turns of the colour circle. Empty: none.
        blur: Deviation of the Gaussian blur in pixels of the view; 0: none.
        solarise: Whether values of 128 and above are inverted.
        flip: Whether left and right are swapped.
        lighting: Red, green and blue to add to values from 0 to 1.
    """

    top: int
    left: int
    height: int
    width: int
    colours: tuple[tuple[Colour, float], ...] = ()
    blur: float = 0.0
    solarise: bool = False
    flip: bool = False
    lighting: Triple = (0.0, 0.0, 0.0)


def view_rng(seed: int, epoch: int, index: int, view: int) -> np.random.Generator:
    """The random numbers of view number `view` of image `index` in `epoch`, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=derived_seed(seed, epoch, index, view)))


def draw(view: View, rng: np.random.Generator, height: int, width: int) -> Drawn:
    """Draw a view of an image, with the distributions of torchvision's transforms.

    Args:
        view: What to draw.
        rng: Where the numbers come from, see `view_rng`.
        height: Rows of the whole image.
        width: Columns of the whole image.
    """
    box = 0, 0, height, width
    if view.crop == "padded":
        top = int(rng.integers(-view.padding, height + view.padding - view.size, endpoint=True))
        left = int(rng.integers(-view.padding, width + view.padding - view.size, endpoint=True))
        box = top, left, view.size, view.size
    elif view.crop == "resized":
        box = _draw_box(rng, height, width, view.crop_scale)
    colours: tuple[tuple[Colour, float], ...] = ()
    if view.jitter is not None and rng.random() < view.jitter_p:
        colours = _draw_jitter(rng, view.jitter)
    if rng.random() < view.grey_p:
        grey: tuple[Colour, float] = "grey", 0.0
        colours = (grey, *colours) if view.jitter_after_grey else (*colours, grey)
    blur = rng.uniform(*SIGMA) if rng.random() < view.blur_p else 0.0
    solarise = rng.random() < view.solarise_p
    flip = rng.random() < view.flip_p
    lighting = (0.0, 0.0, 0.0)
    if view.lighting:
        colour = EIGENVECTORS @ (EIGENVALUES * rng.normal(scale=view.lighting, size=3))
        red, green, blue = (colour / (255 if view.lighting_scale == "byte" else 1)).tolist()
        lighting = red, green, blue
    return Drawn(*box, colours=colours, blur=blur, solarise=solarise, flip=flip, lighting=lighting)


def _draw_box(rng: np.random.Generator, height: int, width: int, scale: Share) -> tuple[int, int, int, int]:
    for _ in range(TRIES):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(0, height - box_height, endpoint=True))
            left = int(rng.integers(0, width - box_width, endpoint=True))
            return top, left, box_height, box_width
    box_width = min(width, round(height * RATIO[1]))
    box_height = min(height, round(width / RATIO[0]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _draw_jitter(
    rng: np.random.Generator, strengths: tuple[float, float, float, float]
) -> tuple[tuple[Colour, float], ...]:
    order, (*blends, hue) = rng.permutation(4), strengths
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in blends] + [rng.uniform(-hue, hue)]
    return tuple((JITTERS[which], factors[which]) for which in order.tolist() if strengths[which])
