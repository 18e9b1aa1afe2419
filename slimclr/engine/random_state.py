"""The random generators' states of a process, for checkpoints."""

import random
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """States of this process's generators: torch, NumPy, Python, and the GPU's where it trains on one.

    Args:
        device: Where this process trains.

    Returns:
        Tensors, lists and numbers only, which `torch.load(weights_only=True)` can read.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": list(random.getstate()),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(states: dict[str, Any], device: torch.device) -> None:
    """Put this process's generators into the states that `random_state` gave.

    Args:
        states: What it gave. States of a GPU are left alone on the CPU, and a GPU keeps its own where there are none.
        device: Where this process trains.
    """
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, values, gauss = states["python"]
    random.setstate((version, tuple(values), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
