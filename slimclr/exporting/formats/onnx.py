"""ONNX: a graph for any number of images, with what to do before and what the outputs are called in its metadata."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimclr.exporting.packages import needed

INPUT, OUTPUT = "images", "outputs"


def write_onnx(network: nn.Module, path: Path, *, image_size: int, metadata: Mapping[str, Any]) -> None:
    """Write a network with a dynamic batch, in the opset that torch's exporter recommends.

    Args:
        network: In eval mode.
        path: A `.onnx` file.
        image_size: Side of the images in pixels.
        metadata: JSON values by name, for the file's metadata.

    Raises:
        UserError: onnx or onnxscript is missing.
    """
    onnx = needed("onnx", by="--format onnx")
    needed("onnxscript", by="--format onnx")
    example = torch.zeros(2, 3, image_size, image_size)
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def run_onnx(path: Path, images: Tensor, *, threads: int = 0) -> Tensor:
    """Outputs for images (n, 3, h, w), computed by onnxruntime on the CPU.

    Raises:
        UserError: onnxruntime is missing.
    """
    return torch.from_numpy(onnx_session(path, threads=threads).run(None, {INPUT: as_array(images)})[0])


def onnx_session(path: Path, *, threads: int = 0, by: str = "--format onnx") -> Any:
    """A session of onnxruntime on the CPU; 0 threads are its own choice."""
    onnxruntime = needed("onnxruntime", by=by)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def as_array(images: Tensor) -> np.ndarray:
    """Images as onnxruntime takes them."""
    return np.ascontiguousarray(images.numpy())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its steps on stdout, and its own deprecations as warnings and in its log."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
