"""The released detector: an mmdet of 2019 on the reference's slimmable backbone; its tensor names, and ours.

Names of mmdet 1 are public: `backbone.conv1`, `backbone.layer<s>.<b>.conv<k>`, `.downsample.0` and `.1`, `neck.*`,
`rpn_head.*`, and without mmdet 2's `roi_head.` before them `bbox_head.*` and `mask_head.*`. Its heads count the
background as class 0, also where nothing is predicted for it: mmdet 2 and 3 have it last for classes, and not at all
for boxes and masks. A slimmable batch norm is `bn1.bn.<i>.*`, and <i> counts the widths from the narrowest. Where
blocks are called `features.<n>` with a `shortcut`, as in the reference's pre-training, they are taken as well.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimclr.arch import BLOCKS
from slimclr.nn.layers import width_key
from slimclr.nn.resnet import build_backbone

_BACKBONE = "backbone."
_BLOCK = re.compile(r"layer(?P<stage>\d+)\.(?P<block>\d+)\.|features\.(?P<number>\d+)\.")
_SHORTCUTS = {"downsample.0.": "shortcut_conv.", "shortcut.0.": "shortcut_conv."}
_SHORTCUTS |= {"downsample.1.": "shortcut_bn.", "shortcut.1.": "shortcut_bn."}
_SHOWN = 20


@dataclass(frozen=True)
class Sizes:
    """What the tensors say of the detector.

    Attributes:
        shape: `SlimmableResNet.shape`.
        stage_channels: Channels of the backbone's maps at width 1.0.
        classes: Categories, without the background.
        fpn_channels, fc_channels, mask_convs: As in the recipe.
    """

    shape: dict[str, Any]
    stage_channels: tuple[int, ...]
    classes: int
    fpn_channels: int
    fc_channels: int
    mask_convs: int


def sizes_of(state: Mapping[str, Tensor]) -> Sizes:
    """Tell the detector from its tensors.

    Args:
        state: Names without `module.`.

    Raises:
        ValueError: A tensor by which something is told is missing or of no use; it is named.
    """
    base_width = len(_needed(state, "backbone.conv1.weight"))
    norms = sorted(int(match[1]) for name in state if (match := re.match(r"backbone\.bn1\.bn\.(\d+)\.weight$", name)))
    channels = [len(state[f"backbone.bn1.bn.{index}.weight"]) for index in norms]
    if not channels or channels != sorted(set(channels)) or channels[-1] != base_width:
        raise ValueError(
            f"backbone.bn1.bn.<i>.weight have {', '.join(map(str, channels)) or 'no'} channels; the released detector "
            f"counts widths from the narrowest, so the last must have the {base_width} of backbone.conv1.weight"
        )
    widths = tuple(count / base_width for count in reversed(channels))
    with torch.device("meta"):
        network = build_backbone(_depth(state), base_width, widths)
    convolutions = {match[0] for name in state if (match := re.match(r"mask_head\.convs\.\d+\.", name))}
    return Sizes(
        shape=network.shape,
        stage_channels=network.stage_channels,
        classes=len(_needed(state, "bbox_head.fc_cls.bias")) - 1,
        fpn_channels=len(_needed(state, "neck.lateral_convs.0.conv.weight")),
        fc_channels=len(_needed(state, "bbox_head.shared_fcs.0.weight")),
        mask_convs=len(convolutions),
    )


def take(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Copies of the tensors under our names.

    Args:
        state: Names without `module.`.
        expected: The state dict of `SlimmableMaskRCNN` of these sizes.
        sizes: What `sizes_of` gave.

    Returns:
        All of `expected`; counters of batches that the file lacks are 0.

    Raises:
        ValueError: Tensors are missing, unknown, of another shape or not finite: a line for each kind, which names
            them.
    """
    tensors: dict[str, Tensor] = {}
    unknown, misshapen, broken = [], [], []
    for name, tensor in state.items():
        ours = _our_name(name, sizes)
        if ours not in expected or ours in tensors:
            unknown.append(name)
            continue
        moved = _without_background(name, tensor, sizes.classes).to(expected[ours].dtype, copy=True)
        tensors[ours] = moved
        if moved.shape != expected[ours].shape:
            misshapen.append(f"{name} {tuple(tensor.shape)}")
        if not torch.isfinite(moved).all():
            broken.append(name)
    for ours, form in expected.items():
        if ours not in tensors and ours.endswith("num_batches_tracked"):
            tensors[ours] = torch.zeros_like(form)
    faults = {
        "missing (our names)": [ours for ours in expected if ours not in tensors],
        "unknown": unknown,
        "of another shape than mmdet's Mask R-CNN has": misshapen,
        "not finite": broken,
    }
    lines = [f"{len(names)} tensors {fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if lines:
        raise ValueError("\n".join(lines))
    return tensors


def _needed(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state or state[name].dim() == 0:
        raise ValueError(f"no tensor {name}, which every mmdet 1 Mask R-CNN with FPN has")
    return state[name]


def _depth(state: Mapping[str, Tensor]) -> int:
    blocks = {match[0] for name in state if (match := _BLOCK.match(name.removeprefix(_BACKBONE)))}
    for depth, counts in BLOCKS.items():
        if sum(counts) == len(blocks):
            return depth
    raise ValueError(f"{len(blocks)} blocks backbone.layer<s>.<b>; a ResNet has {', '.join(map(str, BLOCKS))} layers")


def _our_name(name: str, sizes: Sizes) -> str:
    """Our name; where there is none, something that is no name of ours."""
    if name.startswith(("bbox_head.", "mask_head.")):
        return f"roi_head.{name}"
    if not name.startswith(_BACKBONE):
        return name
    rest = name.removeprefix(_BACKBONE)
    if match := _BLOCK.match(rest):
        rest = _place(match, sizes) + rest[match.end() :]
    for theirs, ours in _SHORTCUTS.items():
        rest = rest.replace(f".{theirs}", f".{ours}")
    # From the narrowest here, from the widest in `shape`.
    widths: Sequence[float] = sizes.shape["widths"][::-1]
    for index, width in enumerate(widths):
        rest = rest.replace(f".bn.{index}.", f".norms.{width_key(width)}.")
    return f"backbone.network.{rest}"


def _place(block: re.Match[str], sizes: Sizes) -> str:
    if block["number"] is None:
        return f"stages.{int(block['stage']) - 1}.{block['block']}."
    counts = BLOCKS[sizes.shape["depth"]]
    positions = [(stage, number) for stage, count in enumerate(counts) for number in range(count)]
    at = int(block["number"])
    return "stages.{}.{}.".format(*positions[at]) if at < len(positions) else "none."


def _without_background(name: str, tensor: Tensor, classes: int) -> Tensor:
    """A head's outputs in the order of mmdet 3; what is of another size stays as it is, and is refused later."""
    last = name.rpartition(".")[0]
    if last == "bbox_head.fc_cls":
        return torch.cat([tensor[1:], tensor[:1]])
    if last == "bbox_head.fc_reg" and len(tensor) == 4 * (classes + 1):
        return tensor[4:]
    if last == "mask_head.conv_logits" and len(tensor) == classes + 1:
        return tensor[1:]
    return tensor


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
