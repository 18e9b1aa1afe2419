"""Tensor names of the reference implementation's checkpoints, as published, and ours.

Backbone: `conv1.weight`, `bn1.bn.<i>.*`, `features.<n>.conv{1,2,3}.weight`, `features.<n>.bn{1,2,3}.bn.<i>.*`,
`features.<n>.shortcut.0.weight`, `features.<n>.shortcut.1.bn.<i>.*`; n counts blocks over all stages, i counts widths
from the largest. A head is `fc.<m>`, where m counts its layers with the activations.
"""

import re
from collections.abc import Mapping, Sequence

from slimclr.arch import BLOCKS
from slimclr.nn.layers import width_key

# Head -> its layers' numbers in the reference and their names here.
HEADS: dict[str, Mapping[str, str]] = {
    "mocov2_slim": {"0": "fc1", "2": "fc2"},
    "mocov2_switch": {"0": "fc1", "2": "fc2"},
    "mocov3_slim": {"0": "fc1", "1": "bn1", "3": "fc2", "4": "bn2"},
    "simclr_slim": {"0": "fc1", "1": "bn1", "3": "fc2", "4": "bn2"},
}


def our_name(name: str, *, depth: int, widths: Sequence[float], head: str | None = None) -> str:
    """Our name of an encoder's tensor, `backbone.*` or `head.*`.

    Args:
        name: The reference's name without `module.` and the encoder's prefix.
        depth: Layers of the network.
        widths: Width multipliers.
        head: A key of `HEADS`; None where `fc` is a single layer.

    Raises:
        ValueError: A name that the reference's networks do not have.
    """
    keys = [width_key(width) for width in sorted(widths, reverse=True)]

    def norms(text: str) -> str:
        text = re.sub(r"\bbn\.(\d+)\.", lambda match: f"norms.{keys[int(match[1])]}.", text)
        return re.sub(r"\blinears\.(\d+)\.", lambda match: f"linears.{keys[int(match[1])]}.", text)

    if match := re.fullmatch(r"(?:fc|predictor)\.(\d+)\.(.+)", name):
        layers = HEADS[head] if head else {}
        if match[1] in layers:
            return f"head.{layers[match[1]]}.{norms(match[2])}"
    if match := re.fullmatch(r"fc\.(.+)", name):
        return f"head.{norms(match[1])}"
    if match := re.fullmatch(r"features\.(\d+)\.(.+)", name):
        stage, block = _position(int(match[1]), depth)
        rest = match[2].replace("shortcut.0.", "shortcut_conv.").replace("shortcut.1.", "shortcut_bn.")
        return f"backbone.stages.{stage}.{block}.{norms(rest)}"
    if re.match(r"(conv1|bn1)\.", name):
        return f"backbone.{norms(name)}"
    raise ValueError(f"{name}: not a tensor of the reference's networks")


def _position(number: int, depth: int) -> tuple[int, int]:
    """Stage and block of the n-th block over all stages."""
    for stage, count in enumerate(BLOCKS[depth]):
        if number < count:
            return stage, number
        number -= count
    raise ValueError(f"features.{number}: a ResNet-{depth} has fewer blocks")
