"""Views on tensors: as with Pillow, in fewer passes over memory and without rounding in between."""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from slimclr.data.images.decode import decode_rgb, read_header
from slimclr.data.views.draw import Drawn
from slimclr.data.views.recipes import GREY, SOLARISE_FROM


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


def decodes_jpegs() -> bool:
    """Whether this torchvision has a JPEG decoder of its own; without it `decode_tensor` is as slow as Pillow."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    try:
        decode_jpeg(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return False
    return True


def tensor_colours(drawn: Drawn, image: Tensor) -> Tensor:
    """As `slimclr.data.views.pillow.pillow_colours`, on a uint8 tensor and without rounding in between."""
    # Flipped first: every operation commutes with it, and bytes are moved faster than floats.
    image = image.flip(2) if drawn.flip else image
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
    return values


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
    least = torch.minimum(torch.minimum(red, green), blue)
    greatest = torch.maximum(torch.maximum(red, green), blue)
    chroma = greatest - least
    # Where the pixel is on the circle: around its greatest channel, on the side of the greater of the other two.
    place = torch.where(greatest == red, green - blue, torch.where(greatest == green, blue - red, red - green)).div_(
        chroma.clamp(min=1e-3)
    )
    place.add_(torch.where(greatest == red, 0.0, torch.where(greatest == green, 2.0, 4.0)))
    place.add_(6 * turns)
    if abs(turns) > 1 / 6:
        place.remainder_(6)
    for channel, peak in zip(values, (0, 2, 4), strict=True):
        # A distance beyond 3 goes the other way round; it is 6 at most.
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
