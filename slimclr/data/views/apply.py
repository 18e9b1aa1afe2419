"""Computes a drawn view with torchvision: crop, colours and normalisation."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from slimclr.data.views.draw import Drawn
from slimclr.data.views.pillow import pillow_colours
from slimclr.data.views.recipes import Triple, View
from slimclr.data.views.tensor import tensor_colours


def apply_torchvision(view: View, drawn: Drawn, image: Image.Image | Tensor) -> Tensor:
    """Make a view.

    Args:
        view: The recipe of the view.
        drawn: Its random numbers.
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
    values = tensor_colours(drawn, image) if isinstance(image, Tensor) else pillow_colours(drawn, image)
    if any(drawn.lighting):
        values += 255 * torch.tensor(drawn.lighting)[:, None, None]
    return _normalise(values, view.mean, view.std)


def _normalise(values: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Values from 0 to 255 to normalised ones, in place and in one go."""
    scale = 1 / (255 * torch.tensor(std))
    return values.mul_(scale[:, None, None]).sub_((torch.tensor(mean) / torch.tensor(std))[:, None, None])
