"""The DALI implementation of the views: the same images as torchvision's, computed on the CPU or a GPU.

`pack` turns drawn views into one array that an external source feeds into the pipeline; `build` turns recipes into the
pipeline's operations. Only this module and `loading.dali` import DALI.
"""

import io
import math
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from nvidia.dali import fn
from nvidia.dali import math as dali_math
from nvidia.dali.types import DALIDataType, DALIInterpType

from slimclr.data.images.decode import decode_rgb, read_header
from slimclr.data.images.jpeg import markers_in_order

try:
    from slimclr.data.views.dali_kernel import finish
except ImportError:
    # Without numba (it is in the locks) DALI's own operators do the same on the CPU, slower; see `_tell_slow`.
    finish = None  # type: ignore[assignment]
from slimclr.data.views.draw import SIGMA, Colour, Drawn
from slimclr.data.views.recipes import GREY, SOLARISE_FROM, View
from slimclr.data.views.tensor import blur_taps

Device = Literal["cpu", "mixed"]
# How much of a Gaussian's tails to compute, in deviations: PIL's blur of 2 pixels reaches 6 pixels too.
REACH = 3
# Sigma of a bell curve, and how much its values at whole pixels deviate.
_SIGMAS = np.linspace(SIGMA[0], SIGMA[1] + 0.1, 400)
_BELLS = np.exp(-(np.arange(-12, 13) ** 2) / (2 * _SIGMAS[:, None] ** 2))
_DEVIATIONS = np.sqrt((_BELLS * np.arange(-12, 13) ** 2).sum(1) / _BELLS.sum(1))
_TO_GREY = np.tile(np.array(GREY), (3, 1))
# What the columns of `pack` hold. Colour operations are two affine ones, with the turn of the colour circle in between.
_START, _END, _BEFORE, _TURN, _AFTER = slice(0, 2), slice(2, 4), slice(4, 22), 22, slice(23, 41)
_SIGMA, _WINDOW, _SOLARISE, _FLIP, _LIGHTING, _TAPS = 41, 42, 43, 44, slice(45, 48), slice(48, 55)
_COLOURS, _REST, _COLUMNS = slice(4, 41), slice(43, 48), 55


def dali_bytes(data: bytes, key: str = "image") -> bytes:
    """Bytes that DALI decodes into what `decode_rgb` makes of `data`.

    Whole JPEGs in colour or grey stay as they are. All others (CMYK, a PNG named JPEG) become an uncompressed BMP:
    DALI neither decodes CMYK as Pillow does, nor composes transparency, nor refuses a JPEG with noise inside.

    Args:
        data: The file's content.
        key: The image's name, for the error message.

    Raises:
        UserError: The bytes are no image, or Pillow refuses it as damaged.
    """
    if read_header(data, key).plain_jpeg and markers_in_order(data):
        return data
    stream = io.BytesIO()
    decode_rgb(data, key).save(stream, "BMP")
    return stream.getvalue()


def pack(view: View, drawn: Sequence[Drawn]) -> np.ndarray:
    """The drawn views of a batch as the numbers that `build` needs, float32 with one row per image."""
    rows = np.zeros((len(drawn), _COLUMNS), np.float32)
    for row, one in zip(rows, drawn, strict=True):
        row[_START], row[_END] = _places(view, one)
        names = [name for name, _ in one.colours]
        turn = names.index("hue") if "hue" in names else len(names)
        row[_BEFORE], row[_AFTER] = _affine(one.colours[:turn]), _affine(one.colours[turn + 1 :])
        row[_TURN] = dict(one.colours).get("hue", 0.0)
        row[_SIGMA], row[_WINDOW] = _gaussian(one.blur)
        taps = blur_taps(one.blur)
        row[_TAPS.start : _TAPS.start + len(taps)] = taps
        row[_SOLARISE], row[_FLIP], row[_LIGHTING] = one.solarise, one.flip, 255 * np.array(one.lighting)
    return rows


def build(views: Sequence[View], encoded: Any, packed: Sequence[Any], *, device: Device = "cpu") -> list[Any]:
    """Add decoding and views to the pipeline that is being defined.

    Args:
        views: The views of every image.
        encoded: DALI's node of the files' contents, after `dali_bytes`.
        packed: For each view the node of what `pack` makes of a batch.
        device: "cpu", or "mixed" to decode and compute on the pipeline's GPU.

    Returns:
        For each view the node of its normalised values, float (3, size, size).
    """
    if device == "cpu" and finish is None:
        _tell_slow()
    # As in Pillow and torchvision, EXIF does not turn the image, and the two colour channels are smoothly enlarged.
    image = fn.decoders.image(encoded, device=device, adjust_orientation=False, jpeg_fancy_upsampling=True)
    return [_view(view, image, numbers, device) for view, numbers in zip(views, packed, strict=True)]


@cache
def _tell_slow() -> None:
    """Print, once per process, that the fast path is missing."""
    print(
        "loader dali: numba is missing, so DALI's own operators make the views, more slowly than Pillow would; "
        "install numba (make .venvs/train), or use loader torchvision_tensor",
        file=sys.stderr,
        flush=True,
    )


def _view(view: View, image: Any, numbers: Any, device: Device) -> Any:
    def near(values: Any) -> Any:
        """Move numbers to the images' device; arguments of an operation stay on the CPU instead."""
        return values.gpu() if device == "mixed" else values

    image = _crop(view, image, numbers)
    if device == "cpu" and finish is not None:
        return finish(view, image, numbers[_COLOURS], numbers[_TAPS], numbers[_REST])
    if view.jitter is not None or view.grey_p:
        image = _mix(image, numbers[_BEFORE], near)
        if view.jitter is not None and view.jitter[3]:
            image = _mix(_turn_hue(image, near(numbers[_TURN])), numbers[_AFTER], near)
    if view.blur_p:
        window = fn.cast(numbers[_WINDOW], dtype=DALIDataType.INT32)
        image = fn.gaussian_blur(image, sigma=numbers[_SIGMA], window_size=window, dtype=DALIDataType.FLOAT)
    if view.solarise_p:
        inverted = (image >= SOLARISE_FROM - 0.5) * near(numbers[_SOLARISE])
        image = image + inverted * (255.0 - 2.0 * image)
    if view.lighting:
        image = image + near(numbers[_LIGHTING])
    return fn.crop_mirror_normalize(
        image,
        mirror=fn.cast(numbers[_FLIP], dtype=DALIDataType.INT32),
        mean=[255 * value for value in view.mean],
        std=[255 * value for value in view.std],
        dtype=DALIDataType.FLOAT,
        output_layout="CHW",
    )


def _crop(view: View, image: Any, numbers: Any) -> Any:
    start, end, size = numbers[_START], numbers[_END], [view.size, view.size]
    bilinear: dict[str, Any] = {"interp_type": DALIInterpType.INTERP_LINEAR, "antialias": True}
    if view.crop == "resized":
        return fn.resize(image, size=size, roi_start=start, roi_end=end, **bilinear)
    if view.crop == "centre":
        image = fn.resize(image, size=end, **bilinear)
    if view.crop in ("centre", "padded"):
        start = fn.cast(start, dtype=DALIDataType.INT32)
        image = fn.slice(image, start=start, shape=size, axes=[0, 1], out_of_bounds_policy="pad")
    return image


def _places(view: View, drawn: Drawn) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and end of a crop: the box's corners; of a centre crop: the box's corner, and the size to resize to.

    Lengths are rounded as in torchvision.
    """
    if view.crop != "centre":
        return (drawn.top, drawn.left), (drawn.top + drawn.height, drawn.left + drawn.width)
    shorter = min(drawn.height, drawn.width)
    height, width = int(view.resize * drawn.height / shorter), int(view.resize * drawn.width / shorter)
    return (round((height - view.size) / 2), round((width - view.size) / 2)), (height, width)


def _affine(colours: Sequence[tuple[Colour, float]]) -> np.ndarray:
    """Colour operations as one: a colour becomes `result[0] @ colour + result[1] @ (mean colour of the view)`, flat.

    Only what would leave 0..255 in between differs from one operation after the other.
    """
    pixel, mean = np.eye(3), np.zeros((3, 3))
    for name, factor in colours:
        if name == "brightness":
            pixel, mean = factor * pixel, factor * mean
        elif name == "contrast":
            mean = factor * mean + (1 - factor) * _TO_GREY @ (pixel + mean)
            pixel = factor * pixel
        else:
            matrix = factor * np.eye(3) + (1 - factor) * _TO_GREY
            pixel, mean = matrix @ pixel, matrix @ mean
    return np.concatenate([pixel.ravel(), mean.ravel()])


def _mix(image: Any, affine: Any, near: Callable[[Any], Any]) -> Any:
    """Apply what `_affine` returns."""
    pixel, mean = fn.reshape(affine[0:9], shape=[3, 3]), fn.reshape(affine[9:18], shape=[3, 3])
    shift = fn.reductions.sum(near(mean) * fn.reductions.mean(image, axes=(0, 1)), axes=1)
    return dali_math.clamp(fn.coord_transform(image, M=pixel) + shift, 0.0, 255.0)


def _turn_hue(image: Any, turn: Any) -> Any:
    """Turn the colour circle as `slimclr.data.views.tensor._turn_hue` does."""
    red, green, blue = (image[:, :, channel] for channel in range(3))
    greatest = dali_math.max(dali_math.max(red, green), blue)
    least = dali_math.min(dali_math.min(red, green), blue)
    chroma = greatest - least
    is_red = greatest == red
    is_green = (greatest == green) & (greatest != red)
    is_blue = (greatest != green) & (greatest != red)
    side = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    place = side / dali_math.max(chroma, 1e-3) + is_green * 2.0 + is_blue * 4.0 + turn * 6.0
    place = place - dali_math.floor(place / 6.0) * 6.0
    away = [dali_math.abs(dali_math.abs(place - peak) - 3.0) - 1.0 for peak in (0.0, 2.0, 4.0)]
    return fn.stack(*(least + chroma * dali_math.clamp(part, 0.0, 1.0) for part in away), axis=2, axis_name="C")


def _gaussian(deviation: float) -> tuple[float, int]:
    """DALI's sigma and window for a blur of some deviation; window 1: none.

    DALI takes the bell curve at whole pixels. Below one pixel these weights deviate less than the curve does, and
    Pillow's deviate as much as they are told to.
    """
    sigma = float(np.interp(deviation, _DEVIATIONS, _SIGMAS))
    return sigma, 1 + 2 * math.ceil(REACH * deviation)
