"""How fast each width is on this machine: engines, precisions and batches, all widths in turn."""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimclr.errors import UserError
from slimclr.exporting.formats.onnx import INPUT, as_array, onnx_session, write_onnx

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# A sample lasts at least so long, in as many passes as that takes: clocks and schedulers are coarser than a small pass.
_SAMPLE_SECONDS = 0.03


@dataclass(frozen=True)
class Setting:
    """One way to run a network.

    Attributes:
        engine: eager, compiled (torch.compile) or onnxruntime.
        precision: fp32, bf16 or fp16.
        batch: Images of a pass.
    """

    engine: str
    precision: str
    batch: int


def time_widths(
    networks: Mapping[float, nn.Module],
    settings: Sequence[Setting],
    *,
    image_size: int,
    device: torch.device,
    threads: int,
    repeats: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Time all widths by turns, so that what else the machine does meets all alike.

    Args:
        networks: In eval mode, by width.
        settings: What to measure.
        image_size: Side of the images in pixels.
        device: Where.
        threads: Of torch and onnxruntime on the CPU.
        repeats: Samples of each width.
        advance: Called with the number of samples done.

    Returns:
        For each setting and width `engine`, `precision`, `batch`, `width`, `ms` (median, per image), `ms_low` and
        `ms_high` (quartiles) and `images_per_s`.

    Raises:
        UserError: An engine cannot do a precision here, or its package is missing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for setting in settings:
            with ExitStack() as stack, torch.inference_mode():
                passes = {
                    width: _pass(network, setting, image_size, device, threads, stack)
                    for width, network in networks.items()
                }
                samples = _samples(passes, repeats, advance)
            found += [_row(setting, width, seconds) for width, seconds in samples.items()]
        return found
    finally:
        torch.set_num_threads(before)


def _samples(
    passes: Mapping[float, Callable[[], Any]], repeats: int, advance: Callable[[int], None]
) -> dict[float, list[float]]:
    """Seconds of one pass, measured `repeats` times for each width."""
    rounds = {}
    for width, run in passes.items():
        run()  # compiles and allocates
        begin = time.perf_counter()
        run()
        rounds[width] = max(1, round(_SAMPLE_SECONDS / (time.perf_counter() - begin)))
    samples: dict[float, list[float]] = {width: [] for width in passes}
    for _ in range(repeats):
        for width, run in passes.items():
            begin = time.perf_counter()
            for _ in range(rounds[width]):
                run()
            samples[width].append((time.perf_counter() - begin) / rounds[width])
            advance(1)
    return samples


def _row(setting: Setting, width: float, seconds: Sequence[float]) -> dict[str, Any]:
    low, high = np.quantile(seconds, [0.25, 0.75]).tolist()
    ms = {name: round(1000 * value / setting.batch, 4) for name, value in (("ms_low", low), ("ms_high", high))}
    middle = median(seconds)
    return {
        "engine": setting.engine,
        "precision": setting.precision,
        "batch": setting.batch,
        "width": width,
        "ms": round(1000 * middle / setting.batch, 4),
        **ms,
        "images_per_s": round(setting.batch / middle, 1),
    }


def _pass(
    network: nn.Module, setting: Setting, image_size: int, device: torch.device, threads: int, stack: ExitStack
) -> Callable[[], Any]:
    """A function that computes one batch and waits for it."""
    images = torch.randn(setting.batch, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    if setting.engine == "onnxruntime":
        return _onnx_pass(network, setting, images, device, threads, stack)
    dtype = PRECISIONS[setting.precision]
    # A copy: other precisions must not be rounded from this one's weights.
    placed = copy.deepcopy(network).to(device, dtype)
    placed = placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(device, dtype, memory_format=torch.channels_last)
    run = torch.compile(placed, dynamic=False) if setting.engine == "compiled" else placed

    def compute() -> Tensor:
        outputs: Tensor = run(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return outputs

    return compute


def _onnx_pass(
    network: nn.Module, setting: Setting, images: Tensor, device: torch.device, threads: int, stack: ExitStack
) -> Callable[[], Any]:
    if setting.precision != "fp32" or device.type != "cpu":
        raise UserError("--engine onnxruntime: fp32 on the CPU alone is measured; leave it out, or the other settings")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    with torch.inference_mode(False):
        write_onnx(network, folder / "model.onnx", image_size=images.shape[-1], metadata={})
    session = onnx_session(folder / "model.onnx", threads=threads, by="--engine onnxruntime")
    return lambda: session.run(None, {INPUT: as_array(images)})
