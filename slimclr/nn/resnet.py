"""Slimmable ResNets: with bottleneck blocks (torchvision's v1.5: the stride is on the 3x3 convolution), and CIFAR's."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from slimclr.arch import BLOCKS, CIFAR_BLOCKS, DEPTHS, arch_name
from slimclr.nn.layers import SlimmableConv2d, SwitchableBatchNorm2d, cut
from slimclr.nn.running_statistics import statistics_kept

# Channels of a stage's 3x3 convolutions from which a memory format of its own pays on the CPU.
_WIDE = 512


class _Block(nn.Module):
    """The shortcut of a residual block: a 1x1 convolution where the shape changes, otherwise the input itself."""

    def _add_shortcut(
        self, in_channels: int, out_channels: int, widths: Sequence[float], *, stride: int, overlap: bool
    ) -> None:
        self.shortcut_conv: SlimmableConv2d | None = None
        self.shortcut_bn: SwitchableBatchNorm2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut_conv = SlimmableConv2d(in_channels, out_channels, 1, widths, stride=stride, overlap=overlap)
            self.shortcut_bn = SwitchableBatchNorm2d(out_channels, widths)

    def _shortcut(self, x: Tensor, width: float) -> Tensor:
        if self.shortcut_conv is None or self.shortcut_bn is None:
            return x
        return self.shortcut_bn(self.shortcut_conv(x, width), width)


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions with a residual connection.

    Args:
        in_channels: Input channels at width 1.0.
        channels: Channels of the 3x3 convolution at width 1.0; the output has four times as many.
        widths: Width multipliers.
        stride: Stride of the 3x3 convolution.
        overlap: See `channel_slices`.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, widths: Sequence[float], *, stride: int = 1, overlap: bool = True
    ):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = SlimmableConv2d(in_channels, channels, 1, widths, overlap=overlap)
        self.bn1 = SwitchableBatchNorm2d(channels, widths)
        self.conv2 = SlimmableConv2d(channels, channels, 3, widths, stride=stride, overlap=overlap)
        self.bn2 = SwitchableBatchNorm2d(channels, widths)
        self.conv3 = SlimmableConv2d(channels, out_channels, 1, widths, overlap=overlap)
        self.bn3 = SwitchableBatchNorm2d(out_channels, widths)
        self._add_shortcut(in_channels, out_channels, widths, stride=stride, overlap=overlap)

    @property
    def last_norm(self) -> SwitchableBatchNorm2d:
        """The batch norm before the sum."""
        return self.bn3

    def forward(self, x: Tensor, width: float) -> Tensor:
        """Map (n, in * width, h, w) to (n, 4 * channels * width, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x, width), width), inplace=True)
        out = F.relu(self.bn2(self.conv2(out, width), width), inplace=True)
        out = self.bn3(self.conv3(out, width), width)
        return F.relu(out + self._shortcut(x, width), inplace=True)


class BasicBlock(_Block):
    """Two 3x3 convolutions with a residual connection; the shortcut is a 1x1 convolution where the size changes.

    Args:
        in_channels: Input channels at width 1.0.
        channels: Output channels at width 1.0.
        widths: Width multipliers.
        stride: Stride of the first convolution.
        overlap: See `channel_slices`.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, widths: Sequence[float], *, stride: int = 1, overlap: bool = True
    ):
        super().__init__()
        self.conv1 = SlimmableConv2d(in_channels, channels, 3, widths, stride=stride, overlap=overlap)
        self.bn1 = SwitchableBatchNorm2d(channels, widths)
        self.conv2 = SlimmableConv2d(channels, channels, 3, widths, overlap=overlap)
        self.bn2 = SwitchableBatchNorm2d(channels, widths)
        self._add_shortcut(in_channels, channels, widths, stride=stride, overlap=overlap)

    @property
    def last_norm(self) -> SwitchableBatchNorm2d:
        """The batch norm before the sum."""
        return self.bn2

    def forward(self, x: Tensor, width: float) -> Tensor:
        """Map (n, in * width, h, w) to (n, channels * width, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x, width), width), inplace=True)
        out = self.bn2(self.conv2(out, width), width)
        return F.relu(out + self._shortcut(x, width), inplace=True)


class SlimmableResNet(nn.Module):
    """A ResNet whose narrower sub-networks are the first channels of every layer.

    Args:
        depth: A key of `blocks`.
        base_width: Channels of the first convolution at width 1.0; 64 is the usual network.
        widths: Width multipliers, 1.0 among them.
        zero_init_residual: The last batch norm of each block starts at 0, so that a block starts as the identity.
        overlap: Sub-networks share their channels; see `channel_slices`.

    Attributes:
        checkpointing: Each block's activations are computed again in the backward pass instead of being kept.
        channels_first_from: The first stage, counted from 0, that is computed in PyTorch's contiguous memory format
            (NCHW) whatever the format of the images; None: all keep theirs.
        compiled: (output of the stem) -> outputs of the stages, by width, see `slimclr.nn.compiled`; or empty.

    Raises:
        ValueError: Unknown depth, widths without 1.0, or a width that does not give whole channels.
    """

    blocks: Mapping[int, tuple[int, ...]] = BLOCKS
    block: type[Bottleneck] | type[BasicBlock] = Bottleneck
    stem_kernel, stem_stride = 7, 2

    def __init__(
        self,
        depth: int = 50,
        base_width: int = 64,
        widths: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
        *,
        zero_init_residual: bool = True,
        overlap: bool = True,
    ):
        super().__init__()
        if depth not in self.blocks:
            raise ValueError(f"depth {depth} is not one of {sorted(self.blocks)}")
        # From the widest down: a sub-network's teacher comes before it.
        self.widths = tuple(sorted((float(width) for width in widths), reverse=True))
        if self.widths[0] != 1.0:
            raise ValueError(f"widths {list(widths)} need 1.0, the full network, as the largest")
        self.depth, self.base_width, self.overlap = depth, base_width, overlap
        self.checkpointing = False
        self.channels_first_from: int | None = None
        self.compiled: dict[float, Callable[[Tensor], tuple[Tensor, ...]]] = {}
        self.conv1 = SlimmableConv2d(
            3, base_width, self.stem_kernel, self.widths, stride=self.stem_stride, fixed_in=True, overlap=overlap
        )
        self.bn1 = SwitchableBatchNorm2d(base_width, self.widths)
        stages, in_channels = [], base_width
        for stage, count in enumerate(self.blocks[depth]):
            channels = base_width * 2**stage
            blocks = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(self.block(in_channels, channels, self.widths, stride=stride, overlap=overlap))
                in_channels = channels * self.block.expansion
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.stage_channels = tuple(base_width * 2**stage * self.block.expansion for stage in range(len(stages)))
        self.out_features = in_channels
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck | BasicBlock) and zero_init_residual:
                for norm in module.last_norm.norms.children():
                    assert isinstance(norm, nn.BatchNorm2d)
                    nn.init.zeros_(norm.weight)

    def set_memory_formats(self, device: torch.device) -> None:
        """Lay the convolutions' weights out as they are fastest on a device, for images in `torch.channels_last`.

        On the CPU, oneDNN's 3x3 convolutions of 512 and more channels over maps of 2 to 7 px take up to 2.5 times as
        long in channels last: the last stage is computed channels first there (benchmarks/README.md).
        """
        last = len(self.stages) - 1
        wide = device.type == "cpu" and self.base_width * 2**last >= _WIDE
        self.channels_first_from = last if wide else None
        first = {id(p) for p in self.stages[last].parameters()} if wide else set()
        for parameter in self.parameters():
            if parameter.dim() == 4:
                to = torch.contiguous_format if id(parameter) in first else torch.channels_last
                parameter.data = parameter.data.contiguous(memory_format=to)

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return arch_name(self.depth, self.base_width)

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments of `build_backbone` that make a network with the same tensors; written beside weights."""
        return {
            "depth": self.depth,
            "base_width": self.base_width,
            "widths": list(self.widths),
            "overlap": self.overlap,
        }

    def stem(self, x: Tensor, width: float, convolved: Tensor | None = None) -> Tensor:
        """What comes before the stages: (n, 3, h, w) to (n, base_width * width, h / 4, w / 4)."""
        return F.max_pool2d(self._first(x, width, convolved), 3, stride=2, padding=1)

    def _first(self, x: Tensor, width: float, convolved: Tensor | None) -> Tensor:
        """First convolution, batch norm and ReLU."""
        x = self.conv1(x, width) if convolved is None else convolved
        return F.relu(self.bn1(x, width), inplace=True)

    def first_convolutions(self, x: Tensor, widths: Sequence[float]) -> dict[float, Tensor]:
        """`conv1(x, width)` of several widths at once: each is some channels of the full network's.

        Args:
            x: Normalised images (n, 3, h, w).
            widths: Width multipliers, 1.0 the first.
        """
        places = [(slice(None), self.conv1.out_slices[width]) for width in widths]
        return cut(self.conv1(x), widths, places)

    def feature_maps(self, x: Tensor, width: float = 1.0, convolved: Tensor | None = None) -> tuple[Tensor, ...]:
        """Outputs of the stages.

        Args:
            x: Normalised images (n, 3, h, w).
            width: Which sub-network.
            convolved: `conv1(x, width)`, where it is known; see `first_convolutions`.

        Returns:
            Four maps (n, stage_channels[i] * width, h / 4 / 2^i, w / 4 / 2^i).
        """
        x = self.stem(x, width, convolved)
        return self.compiled[width](x) if self.compiled else self.run_stages(x, width)

    def run_stages(self, x: Tensor, width: float) -> tuple[Tensor, ...]:
        """Outputs of the stages for an output of the stem."""
        maps = []
        for number, stage in enumerate(self.stages):
            if number == self.channels_first_from and not x.is_contiguous():
                x = _ChannelsFirst.apply(x)
            for block in stage.children():
                if self.checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, width, use_reentrant=False, context_fn=lambda: _contexts(block))  # noqa: B023
                else:
                    x = block(x, width)
            maps.append(x)
        return tuple(maps)

    def forward(self, x: Tensor, width: float = 1.0, convolved: Tensor | None = None) -> Tensor:
        """Features after global average pooling: (n, 3, h, w) to (n, out_features * width); see `feature_maps`."""
        return torch.flatten(F.adaptive_avg_pool2d(self.feature_maps(x, width, convolved)[-1], 1), 1)


class SlimmableCifarResNet(SlimmableResNet):
    """The ResNet for 32 px images (arXiv 1512.03385, section 4.2): three stages of basic blocks, no pooling at first.

    `base_width` is 16 times the width factor: 64 makes ResNet-20 x4. The three maps have h / 2^i rows.
    """

    blocks = CIFAR_BLOCKS
    block = BasicBlock
    stem_kernel, stem_stride = 3, 1

    def stem(self, x: Tensor, width: float, convolved: Tensor | None = None) -> Tensor:
        """What comes before the stages: (n, 3, h, w) to (n, base_width * width, h, w)."""
        return self._first(x, width, convolved)


class _ChannelsFirst(torch.autograd.Function):
    """Channels last to channels first; the gradient goes the way back, or all of its layers would be slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """What surrounds a block's forward pass and its repetition, which must not count for the running statistics."""
    return nullcontext(), statistics_kept(block)


def build_backbone(
    depth: int,
    base_width: int,
    widths: Sequence[float],
    *,
    zero_init_residual: bool = True,
    overlap: bool = True,
) -> SlimmableResNet:
    """The network of a depth; arguments and errors as for `SlimmableResNet`."""
    if depth not in DEPTHS:
        raise ValueError(f"depth {depth} is not one of {', '.join(map(str, DEPTHS))}")
    network = SlimmableCifarResNet if depth in CIFAR_BLOCKS else SlimmableResNet
    return network(depth, base_width, widths, zero_init_residual=zero_init_residual, overlap=overlap)
