"""Views by Pillow's operations, as published."""

from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from slimclr.data.views.draw import Drawn
from slimclr.data.views.recipes import SOLARISE_FROM


def pillow_colours(drawn: Drawn, image: Image.Image) -> Tensor:
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
