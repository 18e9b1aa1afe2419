"""torchvision's names of a ResNet's tensors: `conv1`, `bn1`, `layer<n>.<block>.{conv,bn}{1,2,3}`, `.downsample.{0,1}`.

Plain networks of many places have them: torchvision's own ImageNet weights, MoCo's and MoCo v3's encoders.
"""

import re
from collections.abc import Iterable, Sequence

from slimclr.nn.layers import width_key

_NORMS = f".norms.{width_key(1.0)}."


def blocks_of(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks per stage, as the names of tensors tell; empty where none is torchvision's.

    Example:
        >>> blocks_of(["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight"])
        (2, 1)
    """
    counts: dict[int, int] = {}
    for name in names:
        if match := re.match(r"layer([1-4])\.(\d+)\.", name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    return tuple(counts[stage] for stage in sorted(counts))


def torchvision_beginnings(blocks: Sequence[int]) -> list[tuple[str, str]]:
    """How names begin in torchvision and in a `SlimmableResNet` of one width; of two that fit, the first one holds.

    Args:
        blocks: Blocks per stage.
    """
    pairs = [("conv1.", "backbone.conv1."), ("bn1.", f"backbone.bn1{_NORMS}")]
    for stage, count in enumerate(blocks):
        for block in range(count):
            theirs, ours = f"layer{stage + 1}.{block}.", f"backbone.stages.{stage}.{block}."
            pairs += [(f"{theirs}bn{number}.", f"{ours}bn{number}{_NORMS}") for number in (1, 2, 3)]
            pairs += [
                (f"{theirs}downsample.0.", f"{ours}shortcut_conv."),
                (f"{theirs}downsample.1.", f"{ours}shortcut_bn{_NORMS}"),
                (theirs, ours),
            ]
    return pairs
