"""ONNX with weights and activations of 8 bits (QDQ), calibrated on photos."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from slimclr.exporting.formats.onnx import INPUT, as_array
from slimclr.exporting.packages import needed


def write_int8(onnx_file: Path, path: Path, batches: Iterable[Tensor]) -> None:
    """Quantise a network statically: symmetric weights per channel, activations by the range that photos show.

    Args:
        onnx_file: The same network in fp32, with batch norm folded.
        path: A `.onnx` file.
        batches: Photos to calibrate on (n, 3, h, w); a few hundred are enough.

    Raises:
        UserError: onnxruntime is missing.
    """
    needed("onnxruntime", by="--format int8")
    quantization: Any = needed("onnxruntime.quantization", by="--format int8")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self._batches, None)
            return None if images is None else {INPUT: as_array(images)}

    with warnings_off():
        quantization.quantize_static(
            str(onnx_file),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


@contextlib.contextmanager
def warnings_off() -> Iterator[None]:
    """Onnxruntime advises a preparation that folding has done already, in the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
