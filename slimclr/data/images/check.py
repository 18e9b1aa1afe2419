"""Checks an encoded image and reads its size, mode and format."""

import io

from PIL import Image

from slimclr.data.images.jpeg import markers_in_order

_ORIENTATION = 0x0112


def describe(data: bytes, check: str) -> tuple[int, int, str, str, int]:
    """Width, height, mode, format and EXIF orientation of an image.

    Args:
        data: The file's content.
        check: "structure" or "decode".

    Raises:
        ValueError: With the reason why the image is corrupt.
    """
    if not data:
        raise ValueError("an empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = "JPEG" if image.format == "MPO" else image.format or ""  # a JPEG followed by further pictures
            width, height, mode = image.width, image.height, image.mode
            orientation = _orientation(image) if "exif" in image.info else 1
            end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind)
            # Pillow has read the header only: a thumbnail's end lies before, the image's own behind.
            if end is not None and image.fp is not None and data.rfind(end, image.fp.tell()) < 0:
                raise ValueError("cut short: its end is missing")
            # A decoder that finds markers out of order decides whether it minds; that happens to few images.
            if check == "decode" or (kind == "JPEG" and not markers_in_order(data)):
                image.load()
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "not a readable image" if isinstance(error, Image.UnidentifiedImageError) else f"not readable: {error}"
        raise ValueError(reason) from error
    return width, height, mode, kind, orientation


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises anything for a damaged EXIF block, which is harmless
        return 1
