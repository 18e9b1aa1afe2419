"""What the benchmarks share: seconds of a call, and the machine that they were measured on."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from slimclr.machine import processor


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, and how busy it is."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 1),
    }
