"""The slimmable ResNet with bottleneck blocks (torchvision's v1.5: the stride is on the 3x3 convolution)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.arch import BLOCKS, arch_name
from slimclr.nn.layers import SlimmableConv2d, SwitchableBatchNorm2d

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a residual connection.

    Args:
        in_channels: Input channels at width 1.0.
        channels: Channels of the 3x3 convolution at width 1.0; the output has four times as many.
        widths: Width multipliers.
        stride: Stride of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, widths: Sequence[float], *, stride: int = 1):
        super().__init__()
        out_channels = channels * EXPANSION
        self.conv1 = SlimmableConv2d(in_channels, channels, 1, widths)
        self.bn1 = SwitchableBatchNorm2d(channels, widths)
        self.conv2 = SlimmableConv2d(channels, channels, 3, widths, stride=stride)
        self.bn2 = SwitchableBatchNorm2d(channels, widths)
        self.conv3 = SlimmableConv2d(channels, out_channels, 1, widths)
        self.bn3 = SwitchableBatchNorm2d(out_channels, widths)
        self.shortcut_conv: SlimmableConv2d | None = None
        self.shortcut_bn: SwitchableBatchNorm2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut_conv = SlimmableConv2d(in_channels, out_channels, 1, widths, stride=stride)
            self.shortcut_bn = SwitchableBatchNorm2d(out_channels, widths)

    def forward(self, x: Tensor, width: float) -> Tensor:
        """Map (n, in * width, h, w) to (n, 4 * channels * width, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x, width), width), inplace=True)
        out = F.relu(self.bn2(self.conv2(out, width), width), inplace=True)
        out = self.bn3(self.conv3(out, width), width)
        if self.shortcut_conv is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut_conv(x, width), width)
        return F.relu(out + x, inplace=True)


class SlimmableResNet(nn.Module):
    """A ResNet whose narrower sub-networks are the first channels of every layer.

    Args:
        depth: One of `BLOCKS`.
        base_width: Channels of the first convolution at width 1.0; 64 is the usual network.
        widths: Width multipliers, 1.0 among them.
        zero_init_residual: The last batch norm of each block starts at 0, so that a block starts as the identity.

    Raises:
        ValueError: Unknown depth, widths without 1.0, or a width that does not give whole channels.
    """

    def __init__(
        self,
        depth: int = 50,
        base_width: int = 64,
        widths: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
        *,
        zero_init_residual: bool = True,
    ):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth {depth} is not one of {sorted(BLOCKS)}")
        # From the widest down: a sub-network's teacher comes before it.
        self.widths = tuple(sorted((float(width) for width in widths), reverse=True))
        if self.widths[0] != 1.0:
            raise ValueError(f"widths {list(widths)} need 1.0, the full network, as the largest")
        self.depth, self.base_width = depth, base_width
        self.conv1 = SlimmableConv2d(3, base_width, 7, self.widths, stride=2, fixed_in=True)
        self.bn1 = SwitchableBatchNorm2d(base_width, self.widths)
        stages, in_channels = [], base_width
        for stage, count in enumerate(BLOCKS[depth]):
            channels = base_width * 2**stage
            blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(in_channels, channels, self.widths, stride=stride))
                in_channels = channels * EXPANSION
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.stage_channels = tuple(base_width * 2**stage * EXPANSION for stage in range(4))
        self.out_features = in_channels
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and zero_init_residual:
                for norm in module.bn3.norms.children():
                    assert isinstance(norm, nn.BatchNorm2d)
                    nn.init.zeros_(norm.weight)

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return arch_name(self.depth, self.base_width)

    def feature_maps(self, x: Tensor, width: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of the four stages.

        Args:
            x: Normalised images (n, 3, h, w).
            width: Which sub-network.

        Returns:
            Four maps (n, stage_channels[i] * width, h / 4 / 2^i, w / 4 / 2^i).
        """
        x = F.relu(self.bn1(self.conv1(x, width), width), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            for block in stage.children():
                x = block(x, width)
            maps.append(x)
        return maps[0], maps[1], maps[2], maps[3]

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Features after global average pooling: (n, 3, h, w) to (n, out_features * width)."""
        return torch.flatten(F.adaptive_avg_pool2d(self.feature_maps(x, width)[-1], 1), 1)
