"""Photos made of smooth colours and grain, and files of every kind that ImageNet holds."""

import io

import numpy as np
from PIL import Image

# Files of these kinds are made by `encoded`.
KINDS = ("jpeg", "grey", "cmyk", "png", "rgba", "exif")


def photo(seed, height=120, width=160):
    """uint8 (height, width, 3): warm colours, some of them grey, bright or dark, edges, and fine grain."""
    rng = np.random.default_rng(seed)
    # Smooth maps for brightness and for the two directions of colour.
    light, warm, green = (
        np.asarray(Image.fromarray(rng.uniform(-1, 1, (7, 9)).astype(np.float32)).resize((width, height), 3))
        for _ in range(3)
    )
    # Grain below what rounding to whole values hides, and edges as objects have them.
    grain = rng.normal(0, 3, (height, width))
    rows, columns = np.mgrid[:height, :width]
    edges = 25 * np.sign(np.sin(rows / 3 + columns / 9) * np.sin(columns / 5))
    grey = 125 + 55 * light + edges + grain
    colours = np.stack([grey + 35 + 30 * warm, grey + 12 * green, grey - 30 - 30 * warm], 2)
    return colours.clip(0, 255).astype(np.uint8)


def encoded(array, kind):
    """The bytes of a file of one of `KINDS`."""
    image, stream = Image.fromarray(array), io.BytesIO()
    if kind == "grey":
        image.convert("L").save(stream, "JPEG", quality=95)
    elif kind == "cmyk":
        image.convert("CMYK").save(stream, "JPEG", quality=95)
    elif kind == "png":
        image.save(stream, "PNG")
    elif kind == "rgba":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(stream, "PNG")
    elif kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turn by 90 degrees
        image.save(stream, "JPEG", quality=95, exif=exif)
    else:
        image.save(stream, "JPEG", quality=95)
    return stream.getvalue()
