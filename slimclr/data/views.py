"""Augmentation recipes as data, and their torchvision interpreter (figures: the paper's released scripts).

A recipe is a list of views; each view is a list of named operations in the order crop, jitter, grey, blur, flip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class View:
    """One random view of a photo.

    Attributes:
        crop_scale: Share of the area that a random crop takes, from and to.
        jitter: Brightness, contrast, saturation, hue of colour jitter; None: no jitter.
        jitter_p: Probability of colour jitter.
        jitter_after_grey: MoCo v1 jitters what may have lost its colour; all others jitter first.
        lighting: Deviation of AlexNet's PCA lighting; 0: none.
        grey_p: Probability of losing colour.
        blur_p: Probability of Gaussian blur with a radius of 0.1 to 2 pixels.
        solarise_p: Probability of inverting all values of 128 and above.
        flip_p: Probability of a horizontal flip.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] | None = None
    jitter_p: float = 0.8
    jitter_after_grey: bool = False
    lighting: float = 0.0
    grey_p: float = 0.0
    blur_p: float = 0.0
    solarise_p: float = 0.0
    flip_p: float = 0.5


_MOCOV2 = View(jitter=(0.4, 0.4, 0.4, 0.1), grey_p=0.2, blur_p=0.5)
_MOCOV3 = View(jitter=(0.4, 0.4, 0.2, 0.1), grey_p=0.2)
_SIMCLR = View(crop_scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), grey_p=0.2, blur_p=0.5)

_MOCOV1 = View(jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, jitter_after_grey=True, grey_p=0.2)

# Views for sub-networks alone: they lose neither colour nor sharpness.
_SWEET = View(jitter=_MOCOV2.jitter)

# What each sub-network gets besides the views of VIEWS, where it has its own.
SUB_NETWORK_VIEWS: dict[str, View] = {"mocov2_diff": _MOCOV2, "mocov2_sweet": _SWEET}

VIEWS: dict[str, tuple[View, ...]] = {
    "mocov1": (_MOCOV1, _MOCOV1),
    "mocov2": (_MOCOV2, _MOCOV2),
    "mocov2_diff": (_MOCOV2, _MOCOV2),
    "mocov2_sweet": (_MOCOV2, _MOCOV2),
    "mocov3": (
        View(jitter=_MOCOV3.jitter, grey_p=0.2, blur_p=1.0),
        View(jitter=_MOCOV3.jitter, grey_p=0.2, blur_p=0.1, solarise_p=0.2),
    ),
    "simclr": (_SIMCLR, _SIMCLR),
    "slim": (View(crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, lighting=0.1),),
    "normal": (View(crop_scale=(0.08, 1.0)),),
}

Transform = Callable[[Image.Image], Tensor]


class GaussianBlur(v2.Transform):
    """PIL's Gaussian blur with a radius drawn evenly from 0.1 to 2 pixels, as MoCo v2 and SimCLR define it."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the radius."""
        return {"radius": 0.1 + 1.9 * torch.rand(()).item()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur one image."""
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


class Lighting(torch.nn.Module):
    """AlexNet's PCA lighting on values from 0 to 1, its usual meaning.

    The reference adds the same numbers to values from 0 to 255, where they change next to nothing.

    Args:
        deviation: Standard deviation of the three coefficients.
    """

    eigenvalues = torch.tensor([0.2175, 0.0188, 0.0045])
    eigenvectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

    def __init__(self, deviation: float):
        super().__init__()
        self.deviation = deviation

    def forward(self, image: Tensor) -> Tensor:
        """Add one colour to the whole image (3, h, w) with values from 0 to 1."""
        colour = self.eigenvectors @ (self.eigenvalues * torch.randn(3) * self.deviation)
        return image + colour[:, None, None]


def training_transforms(recipe: str, *, image_size: int, widths: int = 1) -> tuple[Transform, ...]:
    """One transform per view of a recipe: PIL RGB image to a normalised float tensor (3, image_size, image_size).

    Args:
        recipe: A name in `VIEWS`.
        image_size: Side of a view in pixels.
        widths: Number of widths; where sub-networks have views of their own, theirs follow the recipe's.

    Raises:
        ValueError: Unknown recipe.
    """
    if recipe not in VIEWS:
        raise ValueError(f"views {recipe!r} is not one of {', '.join(VIEWS)}")
    views = VIEWS[recipe]
    if recipe in SUB_NETWORK_VIEWS:
        views += (SUB_NETWORK_VIEWS[recipe],) * (widths - 1)
    return tuple(_compose(view, image_size) for view in views)


def validation_transform(*, resize: int, image_size: int) -> Transform:
    """Resize the shorter side, crop the centre, normalise."""
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(image_size), *_to_tensor()])


def _compose(view: View, size: int) -> v2.Compose:
    steps: list[Any] = [v2.RandomResizedCrop(size, scale=view.crop_scale)]
    colour: list[Any] = []
    if view.jitter is not None:
        colour.append(v2.RandomApply([v2.ColorJitter(*view.jitter)], p=view.jitter_p))
    if view.grey_p:
        colour.append(v2.RandomGrayscale(view.grey_p))
    steps += reversed(colour) if view.jitter_after_grey else colour
    if view.blur_p:
        steps.append(v2.RandomApply([GaussianBlur()], p=view.blur_p))
    if view.solarise_p:
        steps.append(v2.RandomSolarize(128, p=view.solarise_p))
    if view.flip_p:
        steps.append(v2.RandomHorizontalFlip(view.flip_p))
    return v2.Compose([*steps, *_to_tensor(view.lighting)])


def _to_tensor(lighting: float = 0.0) -> list[Any]:
    light = [Lighting(lighting)] if lighting else []
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), *light, v2.Normalize(MEAN, STD)]
