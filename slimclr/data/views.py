"""Augmentation recipes, the random numbers of one view, and their torchvision interpreter.

`views.yaml` holds the recipes, a list of views each. What is random about one view of one image is drawn here, once, as
plain numbers (`draw` -> `Drawn`); the interpreters, torchvision below and DALI in `dali_views`, only carry them out. So
an image's view depends on (seed, epoch, image, view) alone: not on the loader, its workers, or a resume.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import torch
import yaml
from PIL import Image, ImageFilter
from pydantic import Field
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from slimclr.config import Model
from slimclr.data.decode import decode_rgb, read_header
from slimclr.seeds import derived_seed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Weights of red, green and blue in what counts as brightness (ITU-R 601, as in PIL).
GREY = (0.299, 0.587, 0.114)
# The crop's aspect ratio, and how often a box is drawn before the centre is taken (torchvision's RandomResizedCrop).
RATIO, TRIES = (3 / 4, 4 / 3), 10
# Deviation of the Gaussian blur in pixels, from and to.
SIGMA = (0.1, 2.0)
SOLARISE_FROM = 128
# AlexNet's PCA lighting.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

Colour = Literal["brightness", "contrast", "saturation", "hue", "grey"]
JITTERS: tuple[Colour, ...] = ("brightness", "contrast", "saturation", "hue")
Share = tuple[float, float]
Triple = tuple[float, float, float]

# ------------------------------------------------------------------------------------------------------ the recipes


class View(Model):
    """One view of a photo."""

    crop: Literal["resized", "padded", "centre", "none"] = Field(
        "resized",
        description="resized: a random box, resized; padded: a random box of the view's size, not resized; centre: of "
        "the resized image, as in validation; none: the image as it is.",
    )
    size: int = Field(224, ge=1, description="Side of the view in pixels.")
    resize: int = Field(256, ge=1, description="Length of the shorter side before a centre crop.")
    crop_scale: Share = Field((1.0, 1.0), description="Share of the image's area that a resized crop takes.")
    padding: int = Field(0, description="Pixels by which a padded crop's box may reach over the image, into black.")
    jitter: tuple[float, float, float, float] | None = Field(
        None, description="Strength of brightness, contrast, saturation, and hue in turns of the colour circle."
    )
    jitter_p: float = Field(0.0, ge=0, le=1, description="Probability of colour jitter.")
    jitter_after_grey: bool = Field(False, description="MoCo v1 jitters what may have lost its colour.")
    grey_p: float = Field(0.0, ge=0, le=1, description="Probability of losing colour.")
    blur_p: float = Field(0.0, ge=0, le=1, description="Probability of Gaussian blur of deviation 0.1 to 2 pixels.")
    solarise_p: float = Field(0.0, ge=0, le=1, description="Probability of inverting all values of 128 and above.")
    flip_p: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip.")
    lighting: float = Field(0.0, ge=0, description="Deviation of AlexNet's PCA lighting.")
    lighting_scale: Literal["unit", "byte"] = Field("unit", description="Lighting is for values to 1, or to 255.")
    mean: Triple = MEAN
    std: Triple = STD


class Recipe(Model):
    """The views of an image in training."""

    views: tuple[View, ...]
    sub_networks: View | None = Field(None, description="What each sub-network gets besides, where it has its own.")


class Recipes(Model):
    """The content of `views.yaml`."""

    training: dict[str, Recipe]
    validation: dict[str, View]


@cache
def recipes() -> Recipes:
    """All recipes by name."""
    text = resources.files("slimclr.data").joinpath("views.yaml").read_text(encoding="utf-8")
    return Recipes.model_validate(yaml.safe_load(text))


def training_views(recipe: str, *, image_size: int, widths: int = 1) -> tuple[View, ...]:
    """The views of one image in training.

    Args:
        recipe: A name under `training` in `views.yaml`.
        image_size: Side of a view in pixels.
        widths: Number of widths; where sub-networks have views of their own, theirs follow the recipe's.

    Raises:
        ValueError: Unknown recipe.
    """
    known = recipes().training
    if recipe not in known:
        raise ValueError(f"views {recipe!r} is not one of {', '.join(known)}")
    own = known[recipe].sub_networks
    views = known[recipe].views + ((own,) * (widths - 1) if own is not None else ())
    return tuple(view.model_copy(update={"size": image_size}) for view in views)


def validation_view(recipe: str = "val", *, resize: int, image_size: int) -> View:
    """The one view of an image in validation.

    Args:
        recipe: A name under `validation` in `views.yaml`; where it does not crop, the lengths are not used.
        resize: Length of the shorter side before the centre crop.
        image_size: Side of the crop.
    """
    return recipes().validation[recipe].model_copy(update={"resize": resize, "size": image_size})


# ------------------------------------------------------------------------------------------------ what is random


@dataclass(frozen=True, slots=True)
class Drawn:
    """All that chance has decided about one view of one image.

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


# ------------------------------------------------------------------------------------------ the torchvision interpreter


def decode_tensor(data: bytes, key: str = "image") -> Tensor:
    """Decode an image into RGB values, uint8 (3, height, width); as `decode_rgb` does it, only faster.

    Args:
        data: The file's content.
        key: The image's name, for the error message.

    Raises:
        UserError: The bytes are no image, or the image is cut short.
    """
    if read_header(data, key).plain_jpeg:
        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError:
            # Only the slow way below says what is wrong, and with which image.
            pass
    return F.pil_to_tensor(decode_rgb(data, key))


def apply_torchvision(view: View, drawn: Drawn, image: Image.Image | Tensor) -> Tensor:
    """Make a view.

    Args:
        view: The recipe of the view.
        drawn: What chance has decided.
        image: The whole image, mode RGB, or uint8 (3, height, width). A PIL image goes through the operations of the
            published recipes, with their rounding to whole values in between; a tensor goes the faster way, without.

    Returns:
        Normalised values, float (3, size, size).
    """
    box = drawn.top, drawn.left, drawn.height, drawn.width
    if view.crop == "resized":
        image = F.resized_crop(image, *box, [view.size, view.size], antialias=True)
    elif view.crop == "padded":
        image = F.crop(image, *box)
    elif view.crop == "centre":
        image = F.center_crop(F.resize(image, [view.resize], antialias=True), [view.size])
    values = _colours_tensor(drawn, image) if isinstance(image, Tensor) else _colours_pil(drawn, image)
    if any(drawn.lighting):
        values += 255 * torch.tensor(drawn.lighting)[:, None, None]
    return _normalise(values, view.mean, view.std)


def _normalise(values: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Values from 0 to 255 to normalised ones, in place and in one go."""
    scale = 1 / (255 * torch.tensor(std))
    return values.mul_(scale[:, None, None]).sub_((torch.tensor(mean) / torch.tensor(std))[:, None, None])


def _colours_pil(drawn: Drawn, image: Image.Image) -> Tensor:
    """All between crop and lighting, on PIL images; values from 0 to 255, float (3, h, w)."""
    adjust = {
        "brightness": F.adjust_brightness,
        "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation,
        "hue": F.adjust_hue,
        "grey": lambda image, _: F.rgb_to_grayscale(image, num_output_channels=3),
    }
    for name, factor in drawn.colours:
        image = adjust[name](image, factor)
    if drawn.blur:
        image = image.filter(ImageFilter.GaussianBlur(drawn.blur))
    if drawn.solarise:
        image = F.solarize(image, SOLARISE_FROM)
    if drawn.flip:
        image = F.horizontal_flip(image)
    return F.pil_to_tensor(image).float()


def _colours_tensor(drawn: Drawn, image: Tensor) -> Tensor:
    """The same on a uint8 tensor, in few passes over memory and without rounding in between."""
    values = image.to(torch.float32, memory_format=torch.contiguous_format)
    for name, factor in drawn.colours:
        if name == "hue":
            _turn_hue(values, factor)
            continue
        if name == "contrast":
            values.sub_(centre := torch.round(_grey(values).mean())).mul_(factor).add_(centre)
        elif name in ("saturation", "grey"):
            values.lerp_(_grey(values).expand_as(values), 1 - factor)
        else:
            values.mul_(factor)
        values.clamp_(0, 255)
    if drawn.blur:
        values = _blur(values, drawn.blur)
    if drawn.solarise:
        values = torch.where(values < SOLARISE_FROM - 0.5, values, 255 - values)
    return values.flip(2) if drawn.flip else values


def _grey(values: Tensor) -> Tensor:
    """Brightness of RGB values (3, h, w) as (1, h, w)."""
    red, green, blue = values
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])[None]


def _turn_hue(values: Tensor, turns: float) -> None:
    """Turn the colour circle in place, keeping every pixel's greatest and least value (HSV), without going to HSV.

    On the circle, cut into six parts, the channel whose peak is at `c` is at the pixel's greatest value within one part
    of `c`, at its least from two parts on, and linear in between.
    """
    red, green, blue = values
    least, greatest = values.amin(0), values.amax(0)
    chroma = greatest - least
    # Where the pixel is on the circle: around its greatest channel, on the side of the greater of the other two.
    place = torch.where(greatest == red, green - blue, torch.where(greatest == green, blue - red, red - green)).div_(
        chroma.clamp(min=1e-3)
    )
    place.add_(torch.where(greatest == red, 0.0, torch.where(greatest == green, 2.0, 4.0)))
    place.add_(6 * turns).remainder_(6)
    for channel, peak in zip(values, (0, 2, 4), strict=True):
        # A distance beyond 3 goes the other way round.
        share = torch.sub(place, peak).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(least, chroma, share, out=channel)


def blur_taps(sigma: float) -> np.ndarray:
    """Weights, from the middle outwards, of PIL's `GaussianBlur(sigma)`: three box blurs of the wanted variance.

    A box of radius `whole + part` gives the outermost pixels the weight `part`.
    """
    length = math.sqrt(4 * sigma**2 + 1)
    whole = int((length - 1) / 2)
    variance = sigma**2 / 3
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([part, *[1.0] * (2 * whole + 1), part])
    taps = np.convolve(np.convolve(box, box), box)
    return (taps / taps.sum())[len(taps) // 2 :]


def _blur(values: Tensor, sigma: float) -> Tensor:
    """Blur as PIL does, along one axis and then the other; the pixels of the edge are repeated outwards."""
    taps = blur_taps(sigma).tolist()
    radius, (_, height, width) = len(taps) - 1, values.shape
    padded = torch.nn.functional.pad(values[None], (0, 0, radius, radius), mode="replicate")[0]
    values = padded[:, radius : radius + height] * taps[0]
    for i in range(1, radius + 1):
        values.add_(padded[:, radius - i : radius - i + height], alpha=taps[i])
        values.add_(padded[:, radius + i : radius + i + height], alpha=taps[i])
    padded = torch.nn.functional.pad(values[None], (radius, radius, 0, 0), mode="replicate")[0]
    values = padded[:, :, radius : radius + width] * taps[0]
    for i in range(1, radius + 1):
        values.add_(padded[:, :, radius - i : radius - i + width], alpha=taps[i])
        values.add_(padded[:, :, radius + i : radius + i + width], alpha=taps[i])
    return values
