"""From an image file's bytes to RGB."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from slimclr.errors import UserError


def decode_rgb(data: bytes, key: str = "image") -> Image.Image:
    """Decode an image of any kind that ImageNet holds (JPEG in RGB, grey or CMYK, one PNG) into RGB.

    Args:
        data: The file's content.
        key: The image's name, for the error message.

    Returns:
        The whole image in mode RGB. Transparent pixels are composed on white.

    Raises:
        UserError: The bytes are no image, or the image is cut short.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                opaque = image.convert("RGBA")
                ground = Image.new("RGBA", opaque.size, "white")
                return Image.alpha_composite(ground, opaque).convert("RGB")
            if image.mode.startswith("I;16"):
                # Pillow would clip 16-bit grey at 255.
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(key, error) from error


class Header(NamedTuple):
    """What an image's first bytes tell.

    Attributes:
        height: Rows, before any rotation that EXIF asks for; nothing here follows such requests.
        width: Columns.
        plain_jpeg: Whether it is a JPEG in colour or grey, which all decoders decode alike.
    """

    height: int
    width: int
    plain_jpeg: bool


def read_header(data: bytes, key: str = "image") -> Header:
    """Read an image's size and kind without decoding it.

    Args:
        data: The file's content.
        key: The image's name, for the error message.

    Raises:
        UserError: The bytes are no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Header(image.height, image.width, image.format == "JPEG" and image.mode in ("RGB", "L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(key, error) from error


def unreadable(key: str, error: Exception) -> UserError:
    """The error of an image that cannot be decoded."""
    return UserError(
        f"{key}: not a readable image ({error}); extract again with imagenet.check_images: decode and "
        "imagenet.on_corrupt: skip, which leaves it out"
    )
