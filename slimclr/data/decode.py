"""From an image file's bytes to RGB."""

import io

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
        message = f"{key}: not a readable image ({error}); extract the archive again or replace the file"
        raise UserError(message) from error
