"""Everything after the crop as one operation of a DALI pipeline on the CPU, compiled by numba.

DALI's own operators on the CPU take about ten times as long: each is a pass over memory, and a turn of the colour
circle alone takes about fifty. On a GPU they do well; there `views.dali` uses them, with the same numbers.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from nvidia.dali.plugin.numba import NumbaFunction
from nvidia.dali.types import DALIDataType

from slimclr.data.views.recipes import SOLARISE_FROM, View

_ZERO, _ONE, _THREE, _SIX, _WHITE = (np.float32(value) for value in (0, 1, 3, 6, 255))
_SIDE = np.float32(1e-3)
_THRESHOLD = np.float32(SOLARISE_FROM - 0.5)


def finish(view: View, image: Any, colours: Any, taps: Any, rest: Any) -> Any:
    """Colours, blur, solarise, lighting, flip and normalisation.

    Args:
        view: The recipe of the view.
        image: Node of the crop, uint8 (size, size, 3).
        colours: Node of the two affine colour operations and the turn in between, float (37,); see `dali_views.pack`.
        taps: Node of the blur's weights from the middle outwards, float (n,); the first is 1 where there is no blur.
        rest: Node of solarise, flip and lighting, float (5,).

    Returns:
        Node of the normalised values, float (3, size, size).
    """
    return _operation(tuple(view.mean), tuple(view.std))(image, colours, taps, rest)


@cache
def _operation(mean: tuple[float, ...], std: tuple[float, ...]) -> NumbaFunction:
    """The operation for a normalisation: views and pipelines share it, as compiling it takes seconds."""
    scale = (1 / (255 * np.array(std))).astype(np.float32)
    offset = (np.array(mean) / np.array(std)).astype(np.float32)

    def run(made: Any, image: Any, colours: Any, taps: Any, rest: Any) -> None:
        _finish(made, image, colours, taps, rest, scale, offset)

    return NumbaFunction(
        run_fn=run,
        setup_fn=_shapes,
        in_types=[DALIDataType.UINT8, DALIDataType.FLOAT, DALIDataType.FLOAT, DALIDataType.FLOAT],
        ins_ndim=[3, 1, 1, 1],
        out_types=[DALIDataType.FLOAT],
        outs_ndim=[3],
        batch_processing=False,
    )


def _shapes(outs: Any, ins: Any) -> None:
    """Tell DALI the results' shapes: channels first."""
    for made, image in zip(outs[0], ins[0]):  # noqa: B905 - numba knows no `strict`
        made[0], made[1], made[2] = 3, image[0], image[1]


@njit(nogil=True, fastmath=True, cache=True)
def _mix(values: Any, pixel: Any, mean: Any) -> None:
    """An affine colour operation on (3, pixels) in place, cut to 0..255; see `dali_views._affine`."""
    count = values.shape[1]
    red_mean = green_mean = blue_mean = _ZERO
    for i in range(count):
        red_mean += values[0, i]
        green_mean += values[1, i]
        blue_mean += values[2, i]
    shift = np.empty(3, np.float32)
    for channel in range(3):
        row = mean[3 * channel : 3 * channel + 3]
        shift[channel] = (row[0] * red_mean + row[1] * green_mean + row[2] * blue_mean) / np.float32(count)
    for i in range(count):
        red, green, blue = values[0, i], values[1, i], values[2, i]
        values[0, i] = min(max(pixel[0] * red + pixel[1] * green + pixel[2] * blue + shift[0], _ZERO), _WHITE)
        values[1, i] = min(max(pixel[3] * red + pixel[4] * green + pixel[5] * blue + shift[1], _ZERO), _WHITE)
        values[2, i] = min(max(pixel[6] * red + pixel[7] * green + pixel[8] * blue + shift[2], _ZERO), _WHITE)


@njit(nogil=True, fastmath=True, cache=True)
def _turn_hue(values: Any, turn: Any) -> None:
    """Turn the colour circle of (3, pixels) in place; see `slimclr.data.views.tensor._turn_hue`."""
    for i in range(values.shape[1]):
        red, green, blue = values[0, i], values[1, i], values[2, i]
        greatest, least = max(red, max(green, blue)), min(red, min(green, blue))
        chroma = greatest - least
        part = _ONE / max(chroma, _SIDE)
        if greatest == red:
            place = (green - blue) * part
        elif greatest == green:
            place = (blue - red) * part + np.float32(2)
        else:
            place = (red - green) * part + np.float32(4)
        place += _SIX * turn
        place -= _SIX * np.floor(place / _SIX)
        for channel in range(3):
            away = abs(abs(place - np.float32(2 * channel)) - _THREE) - _ONE
            values[channel, i] = least + chroma * min(max(away, _ZERO), _ONE)


@njit(nogil=True, fastmath=True, cache=True)
def _blur(values: Any, taps: Any) -> None:
    """Blur (3, height, width) in place along both axes; the pixels of the edge are repeated outwards."""
    height, width = values.shape[1], values.shape[2]
    radius = 0
    while radius + 1 < len(taps) and taps[radius + 1] > _ZERO:
        radius += 1
    between = np.empty((height, width + 2 * radius), np.float32)
    for channel in range(3):
        plane = values[channel]
        for row in range(height):
            line = between[row, radius : radius + width]
            for column in range(width):
                line[column] = taps[0] * plane[row, column]
            for step in range(1, radius + 1):
                above, below, tap = plane[max(row - step, 0)], plane[min(row + step, height - 1)], taps[step]
                for column in range(width):
                    line[column] += tap * (above[column] + below[column])
            between[row, :radius] = line[0]
            between[row, radius + width :] = line[width - 1]
        for row in range(height):
            line, target = between[row], plane[row]
            for column in range(width):
                target[column] = taps[0] * line[radius + column]
            for step in range(1, radius + 1):
                tap = taps[step]
                for column in range(width):
                    target[column] += tap * (line[radius + column - step] + line[radius + column + step])


@njit(nogil=True, fastmath=True, cache=True)
def _finish(made: Any, image: Any, colours: Any, taps: Any, rest: Any, scale: Any, offset: Any) -> None:
    """All of it for one image; for numba, `made` is where the result goes."""
    height, width = image.shape[0], image.shape[1]
    values = np.empty((3, height, width), np.float32)
    for row in range(height):
        for channel in range(3):
            for column in range(width):
                values[channel, row, column] = image[row, column, channel]
    flat = values.reshape(3, height * width)
    _mix(flat, colours[0:9], colours[9:18])
    if colours[18] != _ZERO:
        _turn_hue(flat, colours[18])
    _mix(flat, colours[19:28], colours[28:37])
    if taps[0] < _ONE:
        _blur(values, taps)
    for channel in range(3):
        light = rest[2 + channel]
        for row in range(height):
            for column in range(width):
                value = values[channel, row, column]
                if rest[0] > _ZERO and value >= _THRESHOLD:
                    value = _WHITE - value
                values[channel, row, column] = (value + light) * scale[channel] - offset[channel]
            if rest[1] > _ZERO:
                for column in range(width):
                    made[channel, row, column] = values[channel, row, width - 1 - column]
            else:
                for column in range(width):
                    made[channel, row, column] = values[channel, row, column]
