"""How the inputs of the golden figures are made: every tensor is drawn from its own name."""

import math
import zlib

import numpy as np
import torch

from slimclr.arch import BLOCKS
from slimclr.nn.reference import HEADS, our_name

# The reference's numbers of the re-weighting rules.
RULES = {
    0: "equal",
    1: "share",
    2: "width",
    3: "width_mean_1",
    5: "sub_sum_to_full",
    6: "cumulative",
    7: "next_to_full",
}


def rng(tag):
    return np.random.Generator(np.random.Philox(key=zlib.crc32(tag.encode())))


def images(tag, count, size):
    return torch.tensor(rng(tag).standard_normal((count, 3, size, size)).astype(np.float32))


def tensor(name, shape):
    """The value of the reference's tensor of that full name."""
    draw = rng(name)
    if name.endswith("num_batches_tracked"):
        value = np.zeros(shape)
    elif name.endswith("running_var"):
        value = draw.uniform(0.5, 1.5, shape)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * draw.standard_normal(shape)
    elif len(shape) == 4:
        value = draw.standard_normal(shape) * math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    elif name.endswith("queue"):
        value = draw.standard_normal(shape)
        value = value / np.linalg.norm(value, axis=0)
    elif len(shape) == 2:
        value = draw.standard_normal(shape) * math.sqrt(1 / shape[1])
    else:
        value = draw.uniform(0.5, 1.5, shape)
    return torch.tensor(np.asarray(value).astype(np.float32))


def norm_names(prefix, widths, *, affine=True):
    parts = (["weight", "bias"] if affine else []) + ["running_mean", "running_var", "num_batches_tracked"]
    return [f"{prefix}.bn.{index}.{part}" for index in range(len(widths)) for part in parts]


def backbone_names(depth, widths):
    names, number = ["conv1.weight", *norm_names("bn1", widths)], 0
    for count in BLOCKS[depth]:
        for block in range(count):
            for layer in (1, 2, 3):
                names += [
                    f"features.{number}.conv{layer}.weight",
                    *norm_names(f"features.{number}.bn{layer}", widths),
                ]
            if block == 0:
                names += [
                    f"features.{number}.shortcut.0.weight",
                    *norm_names(f"features.{number}.shortcut.1", widths),
                ]
            number += 1
    return names


def head_names(head, widths):
    if head == "mocov2_slim":
        return [f"fc.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
    if head == "mocov2_switch":
        linears = [f"linears.{index}.{part}" for index in range(len(widths)) for part in ("weight", "bias")]
        return [f"fc.{layer}.{name}" for layer in (0, 2) for name in linears]
    if head == "mocov3_slim":
        last = norm_names("fc.4", widths, affine=False)
        return ["fc.0.weight", *norm_names("fc.1", widths), "fc.3.weight", *last]
    if head == "simclr_slim":
        return ["fc.0.weight", "fc.0.bias", *norm_names("fc.1", widths), "fc.3.weight", *norm_names("fc.4", widths)]
    if head == "supervised_switch":
        return [f"fc.linears.{index}.{part}" for index in range(len(widths)) for part in ("weight", "bias")]
    assert head == "supervised"
    return ["fc.weight", "fc.bias"]


def fill(module, names, prefix, *, depth, widths, head, strip=""):
    """Set every tensor of a module to its golden value; gives the reference's name -> ours."""
    state, ours = module.state_dict(), {}
    for name in names:
        own = our_name(name, depth=depth, widths=widths, head=head if head in HEADS else None).removeprefix(strip)
        state[own].copy_(tensor(prefix + name, tuple(state[own].shape)))
        ours[name] = own
    assert set(ours.values()) == set(state)
    return ours
