"""Checkpoints of the reference implementation: its tensor names, as published, and ours.

Backbone: `conv1.weight`, `bn1.bn.<i>.*`, `features.<n>.conv{1,2,3}.weight`, `features.<n>.bn{1,2,3}.bn.<i>.*`,
`features.<n>.shortcut.0.weight`, `features.<n>.shortcut.1.bn.<i>.*`; n counts blocks over all stages, i counts widths
from the largest. A head is `fc.<m>`, where m counts its layers with the activations; a classifier is `fc` itself.
A network of one width may have torchvision's names instead (`nn/torchvision_names.py`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimclr.arch import BLOCKS
from slimclr.nn.heads import MLP, MoCoV3Projector, SimCLRHead, classifier
from slimclr.nn.layers import width_key
from slimclr.nn.resnet import SlimmableResNet, build_backbone
from slimclr.nn.torchvision_names import blocks_of, torchvision_beginnings

# Head -> how its layers' names begin in the reference, after `fc.`, and here.
HEADS: dict[str, Mapping[str, str]] = {
    "mocov2_slim": {"0.": "fc1.", "2.": "fc2."},
    "mocov2_switch": {"0.": "fc1.", "2.": "fc2."},
    "mocov3_slim": {"0.": "fc1.", "1.": "bn1.", "3.": "fc2.", "4.": "bn2."},
    "simclr_slim": {"0.": "fc1.", "1.": "bn1.", "3.": "fc2.", "4.": "bn2."},
    "supervised": {"": ""},
    "supervised_switch": {"": ""},
}
# How the tensors of the encoder that is trained by gradients begin; a probe's have no such prefix.
ENCODERS = ("encoder_q.", "base_encoder.")
# What DistributedDataParallel and torch.compile put into names, around the whole network or a part.
WRAPPERS = ("module", "_orig_mod")
# Further tensors of a pre-training checkpoint, which are ignored.
EXTRAS = {
    "queue": ("queue", "queue_ptr"),
    "key encoder": ("encoder_k.", "momentum_encoder."),
    "predictor": ("predictor.",),
}
# The first of these beginnings that a checkpoint has tells its head; MoCo v3's is told by the encoder's prefix.
_TELLS_HEAD = {
    "fc.1.bn.": "simclr_slim",
    "fc.0.linears.": "mocov2_switch",
    "fc.0.": "mocov2_slim",
    "fc.linears.": "supervised_switch",
    "fc.": "supervised",
}
_SHOWN, _FIRST = 20, 5


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint of the reference holds, under our names.

    Attributes:
        method: mocov2, mocov3, simclr, supervised or probe.
        arch: The architecture's name.
        shape: Arguments of `build_backbone`. Whether sub-networks overlap cannot be told: they do.
        tensors: `backbone.*` and `head.*`.
        ignored: Number of tensors by a key of `EXTRAS`.
    """

    method: str
    arch: str
    shape: dict[str, Any]
    tensors: dict[str, Tensor]
    ignored: dict[str, int]


def our_name(
    name: str, *, depth: int, widths: Sequence[float], head: str | None = None, torchvision: bool = False
) -> str:
    """Our name of an encoder's tensor, `backbone.*` or `head.*`.

    Args:
        name: The reference's name without `WRAPPERS` and the encoder's prefix.
        depth: Layers of the network.
        widths: Width multipliers.
        head: A key of `HEADS`; None is a classifier.
        torchvision: The backbone has torchvision's names.

    Raises:
        ValueError: A name that the reference's networks do not have.
    """
    return _rename(name, _beginnings(depth, head, torchvision), _indices(widths))


def reference_name(
    name: str, *, depth: int, widths: Sequence[float], head: str | None = None, torchvision: bool = False
) -> str:
    """The inverse of `our_name` for encoders; arguments and errors as there."""
    beginnings = [(ours, theirs) for theirs, ours in _beginnings(depth, head, torchvision)]
    return _rename(name, beginnings, [(ours, theirs) for theirs, ours in _indices(widths)])


def read_state(state: Mapping[str, Tensor]) -> Checkpoint:
    """Tell a checkpoint's method and network from its tensors, check that it is complete, and rename it.

    Args:
        state: The state dict; names may begin with one of `ENCODERS`, and have parts of `WRAPPERS` anywhere.

    Returns:
        Copies of the encoder's tensors. Missing counters of batches are 0.

    Raises:
        ValueError: Not a checkpoint of the reference, or tensors are missing, unknown, of another shape or not finite.
            One line for each of the four, with the reference's names.
    """
    names, unknown = _unwrapped(state)
    prefix = next((prefix for prefix in ENCODERS if any(name.startswith(prefix) for name in names)), "")
    ignored: Counter[str] = Counter()
    encoder: dict[str, Tensor] = {}
    for name, tensor in names.items():
        if extra := _extra(name):
            ignored[extra] += 1
        elif name.startswith(prefix):
            encoder[name.removeprefix(prefix)] = tensor
        else:
            unknown.append(name)
    try:
        head = "mocov3_slim" if prefix == "base_encoder." else _head(encoder)
        backbone, network = _network(encoder, head)
    except ValueError as error:
        first = ", ".join(list(state)[:_FIRST]) or "none"
        raise ValueError(f"{error}; of {len(state)} tensors the first are {first}") from None
    shape: dict[str, Any] = {"depth": backbone.depth, "widths": backbone.widths, "head": head}
    shape["torchvision"] = bool(blocks_of(encoder))
    tensors = _renamed(encoder, network.state_dict(), shape, arch=backbone.arch, prefix=prefix, unknown=unknown)
    return Checkpoint(_method(head, prefix), backbone.arch, backbone.shape, tensors, dict(ignored))


def _renamed(
    encoder: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    shape: dict[str, Any],
    *,
    arch: str,
    prefix: str,
    unknown: list[str],
) -> dict[str, Tensor]:
    """Copies of an encoder's tensors under our names; refuses what does not fit the expected ones."""
    tensors: dict[str, Tensor] = {}
    misshapen, not_finite = [], []
    for name, tensor in encoder.items():
        try:
            ours = our_name(name, **shape)
        except ValueError:
            ours = ""
        if ours not in expected or ours in tensors:
            unknown.append(prefix + name)
            continue
        tensors[ours] = tensor.detach().to(expected[ours].dtype, copy=True)
        if tensor.shape != expected[ours].shape:
            misshapen.append(f"{prefix}{name} is {tuple(tensor.shape)} instead of {tuple(expected[ours].shape)}")
        if count := int((~torch.isfinite(tensors[ours])).sum()):
            not_finite.append(f"{prefix}{name} ({count} of {tensor.numel()} values)")
    missing = []
    for ours, form in expected.items():
        if ours in tensors:
            continue
        if ours.endswith("num_batches_tracked"):
            tensors[ours] = torch.zeros_like(form, device="cpu")
        else:
            missing.append(f"{prefix}{reference_name(ours, **shape)} {tuple(form.shape)}")
    _refuse(
        f"{arch} with {len(shape['widths'])} widths",
        {
            "missing of": missing,
            "of another shape than in": misshapen,
            "unknown in": unknown,
            "not finite in": not_finite,
        },
    )
    return tensors


def _beginnings(depth: int, head: str | None, torchvision: bool) -> list[tuple[str, str]]:
    """How names begin in the reference and here; of two that fit, the first one holds."""
    pairs = torchvision_beginnings(BLOCKS[depth]) if torchvision else _reference_beginnings(BLOCKS[depth])
    layers = HEADS[head or "supervised"].items()
    return pairs + [(f"{part}.{theirs}", f"head.{ours}") for part in ("fc", "predictor") for theirs, ours in layers]


def _reference_beginnings(blocks: Sequence[int]) -> list[tuple[str, str]]:
    pairs = [("conv1.", "backbone.conv1."), ("bn1.", "backbone.bn1.")]
    positions = [(stage, block) for stage, count in enumerate(blocks) for block in range(count)]
    for number, (stage, block) in enumerate(positions):
        theirs, ours = f"features.{number}.", f"backbone.stages.{stage}.{block}."
        pairs += [
            (f"{theirs}shortcut.0.", f"{ours}shortcut_conv."),
            (f"{theirs}shortcut.1.", f"{ours}shortcut_bn."),
            (theirs, ours),
        ]
    return pairs


def _indices(widths: Sequence[float]) -> list[tuple[str, str]]:
    """How a width is written inside names in the reference and here."""
    keys = [width_key(width) for width in sorted(widths, reverse=True)]
    return [
        (f".{theirs}.{index}.", f".{ours}.{key}.")
        for index, key in enumerate(keys)
        for theirs, ours in (("bn", "norms"), ("linears", "linears"))
    ]


def _rename(name: str, beginnings: Iterable[tuple[str, str]], parts: Iterable[tuple[str, str]]) -> str:
    for old, new in beginnings:
        if name.startswith(old):
            name = new + name.removeprefix(old)
            for old_part, new_part in parts:
                name = name.replace(old_part, new_part)
            return name
    raise ValueError(f"{name}: not a tensor of the reference's networks")


def _refuse(network: str, mistakes: Mapping[str, Sequence[str]]) -> None:
    """One line for each kind of mistake that was found; none: nothing."""
    lines = [
        f"{len(found)} tensors {mistake} {network}: {_listed(found)}" for mistake, found in mistakes.items() if found
    ]
    if lines:
        raise ValueError("\n".join(lines))


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by names without `WRAPPERS`, and the names of those for which that name is taken."""
    names: dict[str, Tensor] = {}
    doubled = []
    for name, tensor in state.items():
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare in names:
            doubled.append(name)
        names.setdefault(bare, tensor)
    return names, doubled


def _extra(name: str) -> str | None:
    for kind, beginnings in EXTRAS.items():
        if any(name.startswith(text) if text.endswith(".") else name == text for text in beginnings):
            return kind
    return None


def _head(names: Iterable[str]) -> str:
    names = list(names)
    for beginning, head in _TELLS_HEAD.items():
        if any(name.startswith(beginning) for name in names):
            return head
    raise ValueError("no tensor fc.*, by which the method is told")


def _method(head: str, prefix: str) -> str:
    if head == "supervised_switch":
        return "supervised" if prefix else "probe"
    return head.split("_")[0]


def _depth(names: Sequence[str]) -> int:
    depth_of = {counts: depth for depth, counts in BLOCKS.items()}
    if stages := blocks_of(names):
        if stages not in depth_of:
            raise ValueError(f"blocks of layer<n>: {stages}; a ResNet has {', '.join(map(str, depth_of))}")
        return depth_of[stages]
    numbers = [int(match[1]) for name in names if (match := re.match(r"features\.(\d+)\.", name))]
    blocks = max(numbers, default=-1) + 1
    depths = {sum(counts): depth for counts, depth in depth_of.items()}
    if blocks not in depths:
        raise ValueError(f"{blocks} blocks features.<n>; a ResNet has {', '.join(map(str, depths))}")
    return depths[blocks]


def _widths(state: Mapping[str, Tensor]) -> tuple[int, tuple[float, ...]]:
    """Channels of the first convolution, and the widths by the channels of the batch norms after it."""
    indices = [int(match[1]) for name in state if (match := re.match(r"bn1\.bn\.(\d+)\.", name))]
    base_width = _rows(state, "conv1.weight")
    if blocks_of(state):
        return base_width, (1.0,)
    channels = [_rows(state, f"bn1.bn.{index}.weight") for index in range(max(indices, default=0) + 1)]
    if channels[0] != base_width or channels != sorted(set(channels), reverse=True):
        raise ValueError(
            f"bn1.bn.<i>.weight of {', '.join(map(str, channels))} channels; the first must have the {base_width} of "
            "conv1.weight, each further one fewer"
        )
    return base_width, tuple(count / base_width for count in channels)


def _rows(state: Mapping[str, Tensor], name: str) -> int:
    if name not in state or not state[name].numel():
        raise ValueError(f"lacks {name}, by which the network's shape is told")
    return math.prod(state[name].shape[:1])


def _network(encoder: Mapping[str, Tensor], head: str) -> tuple[SlimmableResNet, nn.Module]:
    """The backbone that an encoder's tensors belong to, and it with its head, both without memory."""
    depth, base_width, widths = _depth(list(encoder)), *_widths(encoder)
    with torch.device("meta"):
        backbone = build_backbone(depth, base_width, widths)
        parts = {"backbone": backbone, "head": _build_head(head, encoder, backbone.out_features, widths)}
    return backbone, nn.ModuleDict(parts)


def _build_head(head: str, state: Mapping[str, Tensor], features: int, widths: Sequence[float]) -> nn.Module:
    """The head that the tensors belong to; sizes that the backbone does not fix are theirs."""
    if head == "mocov2_slim":
        return MLP(features, _rows(state, "fc.2.weight"), widths)
    if head == "mocov2_switch":
        return MLP(features, _rows(state, "fc.2.linears.0.weight"), widths, switchable=True)
    if head in ("mocov3_slim", "simclr_slim"):
        projector = MoCoV3Projector if head == "mocov3_slim" else SimCLRHead
        return projector(features, _rows(state, "fc.0.weight"), _rows(state, "fc.3.weight"), widths)
    switchable = head == "supervised_switch"
    classes = _rows(state, "fc.linears.0.weight" if switchable else "fc.weight")
    return classifier(features, classes, widths, switchable=switchable)


def _listed(items: Sequence[str]) -> str:
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + rest
