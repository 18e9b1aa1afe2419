"""Scaling encoded images down, once and for all."""

import io

from PIL import Image

from slimclr.data.images.decode import decode_rgb


def shrink(data: bytes, key: str, *, shorter_side: int, quality: int) -> bytes:
    """An image scaled down (bicubic, antialiased) and encoded as JPEG anew; a smaller one as it is.

    Args:
        data: The file's content.
        key: The image's name, for the error message.
        shorter_side: In pixels.
        quality: Of the new JPEG.

    Raises:
        UserError: The bytes are no image, or the image is cut short.
    """
    image = decode_rgb(data, key)
    shorter = min(image.size)
    if shorter <= shorter_side:
        return data
    width, height = (round(side * shorter_side / shorter) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()
