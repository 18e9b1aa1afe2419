"""Layers whose sub-networks share one set of weights (SlimCLR, section 3.1; slimmable networks, arXiv 1812.08928).

Every layer is called with the width to compute, `layer(x, width)`: no state holds a current width, so widths do not
interfere and a layer may run at several widths before one backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from slimclr.arch import width_channels


def width_key(width: float) -> str:
    """The name of a width inside a `ModuleDict`, which allows no dot: 0.25 -> '0_25'."""
    return str(float(width)).replace(".", "_")


def channel_slices(
    channels: int, widths: Sequence[float], *, fixed: bool = False, overlap: bool = True
) -> dict[float, slice]:
    """The channels of a layer that each width uses.

    Args:
        channels: Channels at width 1.0.
        widths: Width multipliers.
        fixed: Every width uses all channels (the image's three, a head's output).
        overlap: A width uses the first `width * channels`. Otherwise sub-networks share nothing with each other: the
            narrowest has the first channels, the next one those after them, and so on; the full network has all.

    Raises:
        ValueError: A width does not give a whole number of channels, or sub-networks without overlap need more channels
            than there are.
    """
    if fixed:
        return {float(width): slice(0, channels) for width in widths}
    counts = {float(width): width_channels(channels, width) for width in widths}
    if overlap:
        return {width: slice(0, count) for width, count in counts.items()}
    starts, used = {1.0: 0}, 0
    for width in sorted(counts.keys() - {1.0}):
        starts[width] = used
        used += counts[width]
    if used > channels:
        raise ValueError(f"widths {list(widths)} below 1.0 add up to more than 1, so they cannot be disjoint")
    return {width: slice(starts[width], starts[width] + count) for width, count in counts.items()}


Place = tuple[slice, slice]


class _Parts(torch.autograd.Function):
    """See `cut`."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, places: Sequence[Place]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.places, ctx.like = places, (whole.shape, whole.dtype, whole.device, _memory_format(whole))
        # What autocast would cast is cast once, and smaller parts are copied from half floats.
        kind = whole.device.type
        if torch.is_autocast_enabled(kind) and whole.dtype == torch.float32:
            whole = whole.to(torch.get_autocast_dtype(kind))
        return tuple(whole[place].contiguous(memory_format=_memory_format(whole)) for place in places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:
        shape, dtype, device, memory_format = ctx.like
        total = None
        for place, gradient in zip(ctx.places, gradients, strict=True):
            if gradient is None:
                continue
            if total is None:
                if gradient.shape == shape:
                    # The gradient of a convolution or matrix product is not shared, so it can be added to in place.
                    total = gradient.to(dtype)
                    continue
                total = torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=memory_format)
            total[place].add_(gradient)
        assert total is not None
        return total, None


def _memory_format(tensor: Tensor) -> torch.memory_format:
    return torch.contiguous_format if tensor.is_contiguous() else torch.channels_last


def cut(whole: Tensor, widths: Sequence[float], places: Sequence[Place]) -> dict[float, Tensor]:
    """Slices of a weight or of a convolution's output for several widths, contiguous, in a single autograd node.

    The node adds the slices' gradients up in place. With indexing, each slice would have a node of its own, which
    expands its gradient to the size of the whole tensor first: with four widths, 12 % of a step on the CPU.

    Args:
        whole: What is cut: (out, in, ...) or (n, channels, ...); under autocast the parts have its type.
        widths: Names of the parts.
        places: The slices of the first two dimensions for each. The first part's gradient must not be shared with
            other nodes (a weight's and a batch norm input's are not), because the others are added to it in place.
    """
    return dict(zip(widths, _Parts.apply(whole, places), strict=True))


@contextmanager
def widths_together(network: nn.Module, widths: Sequence[float]) -> Iterator[None]:
    """Slice the weights of all layers once for several widths, as long as the context lasts.

    For forward passes of several widths before one backward pass; the results are the same as for each width alone.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, SlimmableConv2d | SlimmableLinear)]
    together = torch.is_grad_enabled() and len(widths) > 1
    try:
        for layer in layers if together else ():
            places = [(layer.out_slices[width], layer.in_slices[width]) for width in widths]
            layer.parts = cut(layer.weight, widths, places)
        yield
    finally:
        for layer in layers:
            layer.parts = {}


class SlimmableConv2d(nn.Conv2d):
    """A convolution without bias; width w uses `w * channels` of its input and output channels.

    Args:
        in_channels: Input channels at width 1.0.
        out_channels: Output channels at width 1.0.
        kernel_size: Side of the square kernel; padding keeps the size at stride 1.
        widths: Width multipliers.
        stride: Stride.
        fixed_in: The input has all channels at every width (the first convolution).
        overlap: See `channel_slices`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        widths: Sequence[float],
        *,
        stride: int = 1,
        fixed_in: bool = False,
        overlap: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
        self.in_slices = channel_slices(in_channels, widths, fixed=fixed_in, overlap=overlap)
        self.out_slices = channel_slices(out_channels, widths, overlap=overlap)
        self.parts: dict[float, Tensor] = {}

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Convolve `x` (n, in * width, h, w) to (n, out * width, h', w')."""
        return F.conv2d(x, _weight(self, width), None, self.stride, self.padding)


class SlimmableLinear(nn.Linear):
    """A linear layer; width w uses `w * features` of its inputs and outputs.

    Args:
        in_features: Inputs at width 1.0.
        out_features: Outputs at width 1.0.
        widths: Width multipliers.
        bias: With a bias.
        fixed_in: All inputs at every width.
        fixed_out: All outputs at every width (embeddings and classes).
        overlap: See `channel_slices`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        widths: Sequence[float],
        *,
        bias: bool = True,
        fixed_in: bool = False,
        fixed_out: bool = False,
        overlap: bool = True,
    ):
        super().__init__(in_features, out_features, bias=bias)
        self.in_slices = channel_slices(in_features, widths, fixed=fixed_in, overlap=overlap)
        self.out_slices = channel_slices(out_features, widths, fixed=fixed_out, overlap=overlap)
        self.parts: dict[float, Tensor] = {}

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map `x` (n, in * width) to (n, out * width)."""
        bias = None if self.bias is None else self.bias[self.out_slices[width]]
        return F.linear(x, _weight(self, width), bias)


def _weight(layer: SlimmableConv2d | SlimmableLinear, width: float) -> Tensor:
    """The part of a layer's weight that a width uses, from `widths_together` where that was cut out."""
    part = layer.parts.get(width)
    return layer.weight[layer.out_slices[width], layer.in_slices[width]] if part is None else part


class SwitchableLinear(nn.Module):
    """One linear layer per width.

    Args:
        in_features: Inputs at width 1.0.
        out_features: Outputs at width 1.0.
        widths: Width multipliers.
        fixed_out: All outputs at every width (embeddings and classes).
    """

    def __init__(self, in_features: int, out_features: int, widths: Sequence[float], *, fixed_out: bool = False):
        super().__init__()
        self.linears = nn.ModuleDict(
            {
                width_key(w): nn.Linear(
                    width_channels(in_features, w), out_features if fixed_out else width_channels(out_features, w)
                )
                for w in widths
            }
        )

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, in * width) to (n, out), or (n, out * width)."""
        return self.linears[width_key(width)](x)


class _SwitchableBatchNorm(nn.Module):
    """One batch norm per width: means and variances differ too much between widths to be shared.

    Args:
        channels: Channels at width 1.0.
        widths: Width multipliers.
        affine: With a learned scale and shift.
        fixed: Every width has all channels (a head's output).
    """

    norm: type[nn.BatchNorm1d] | type[nn.BatchNorm2d]

    def __init__(self, channels: int, widths: Sequence[float], *, affine: bool = True, fixed: bool = False):
        super().__init__()
        sizes = {width: channels if fixed else width_channels(channels, width) for width in widths}
        self.norms = nn.ModuleDict({width_key(w): self.norm(size, affine=affine) for w, size in sizes.items()})

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Normalise (n, channels * width, ...) with that width's own statistics and affine parameters."""
        return self.norms[width_key(width)](x)


class SwitchableBatchNorm1d(_SwitchableBatchNorm):
    """For (n, channels * width)."""

    norm = nn.BatchNorm1d


class SwitchableBatchNorm2d(_SwitchableBatchNorm):
    """For (n, channels * width, h, w)."""

    norm = nn.BatchNorm2d


def used_slices(module: nn.Module, width: float) -> Mapping[str, Tensor]:
    """The parts of a slimmable network's parameters that one width uses, by parameter name, as views.

    A parameter that the width does not use at all (another width's batch norm) is absent.
    """
    used: dict[str, Tensor] = {}
    for prefix, layer in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(layer, SlimmableConv2d | SlimmableLinear):
            used[f"{dot}weight"] = layer.weight[layer.out_slices[width], layer.in_slices[width]]
            if layer.bias is not None:
                used[f"{dot}bias"] = layer.bias[layer.out_slices[width]]
        elif isinstance(layer, nn.ModuleDict) and width_key(width) in layer:
            key = width_key(width)
            used |= {f"{dot}{key}.{name}": tensor for name, tensor in layer[key].named_parameters()}
    return used
