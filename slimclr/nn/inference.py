"""Features of a frozen backbone: each width a plain network of its own, with batch norm in its convolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.nn.layers import SlimmableConv2d, width_key
from slimclr.nn.resnet import SlimmableCifarResNet, SlimmableResNet

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Convolution(NamedTuple):
    """A convolution with the batch norm that follows it."""

    weight: Tensor
    bias: Tensor
    stride: int

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.weight.shape[-1] // 2)


class _Block(NamedTuple):
    """A residual block."""

    convolutions: tuple[_Convolution, ...]
    shortcut: _Convolution | None

    def __call__(self, x: Tensor) -> Tensor:
        out = x
        for convolution in self.convolutions[:-1]:
            out = convolution(out).relu_()
        out = self.convolutions[-1](out)
        return out.add_(x if self.shortcut is None else self.shortcut(x)).relu_()


class _Network(NamedTuple):
    """A width's network behind the first convolution."""

    scale: Tensor
    """Of the first batch norm (c, 1, 1)."""
    bias: Tensor
    blocks: tuple[tuple[_Block, ...], ...]


class FrozenBackbone:
    """A copy of a backbone that only computes features, of all widths at once, with its running statistics.

    Batch norm is folded into a width's own copy of the convolutions (in double precision), so the values equal the
    backbone's in eval mode but for rounding. The first convolution is computed once for all widths. The backbone
    itself is not touched, and what is done to it afterwards does not count.

    Args:
        backbone: The network.
        device: Where features are computed.
        widths: Those that are computed; None: all of the backbone's.
        precision: What weights and images are rounded to: fp32, fp16 or bf16. Features come as fp32.
        compiled: torch.compile, one graph per width and size of a batch; the first batches wait for it.

    Attributes:
        widths: Widths that are computed, the widest first.

    Raises:
        ValueError: A width that the backbone does not have, or an unknown precision.
    """

    def __init__(
        self,
        backbone: SlimmableResNet,
        device: torch.device,
        *,
        widths: Sequence[float] | None = None,
        precision: str = "fp32",
        compiled: bool = False,
    ):
        wanted = backbone.widths if widths is None else tuple(widths)
        unknown = [width for width in wanted if width not in backbone.widths]
        if unknown or not wanted:
            raise ValueError(f"widths {list(wanted)}: the network has {', '.join(map(str, backbone.widths))}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision} is not one of {', '.join(PRECISIONS)}")
        self.widths = tuple(sorted(set(wanted), reverse=True))
        self.device, self._dtype = device, PRECISIONS[precision]
        self._pooled = not isinstance(backbone, SlimmableCifarResNet)
        self._first = self._placed(backbone.conv1.weight.detach()), backbone.conv1.stride, backbone.conv1.padding
        self._slices = backbone.conv1.out_slices
        self._networks = {width: self._fold(backbone, width) for width in self.widths}
        self._stages: dict[float, Callable[[Tensor], Tensor]] = {
            width: torch.compile(partial(self._run, network), dynamic=False)
            if compiled
            else partial(self._run, network)
            for width, network in self._networks.items()
        }

    def __call__(self, images: Tensor, widths: Sequence[float] | None = None) -> dict[float, Tensor]:
        """Pooled features by width.

        Args:
            images: Normalised images (n, 3, h, w), on any device.
            widths: Which widths; None: all.

        Returns:
            (n, out_features * width) each, in fp32, ordinary tensors without a gradient.
        """
        with torch.inference_mode():
            weight, stride, padding = self._first
            images = images.to(self.device, self._dtype, non_blocking=True, memory_format=torch.channels_last)
            convolved = F.conv2d(images, weight, None, stride, padding)
            features = {
                width: self._stages[width](self._stem(convolved, width))
                for width in (self.widths if widths is None else widths)
            }
        # Tensors made in inference mode could not be saved for a classifier's backward pass.
        return {width: rows.float().clone() for width, rows in features.items()}

    def _stem(self, convolved: Tensor, width: float) -> Tensor:
        network = self._networks[width]
        x = torch.addcmul(network.bias, convolved[:, self._slices[width]], network.scale)
        # ReLU and the maximum may change places, and a quarter of the values is left behind the maximum.
        return (F.max_pool2d(x, 3, stride=2, padding=1) if self._pooled else x).relu_()

    @staticmethod
    def _run(network: _Network, x: Tensor) -> Tensor:
        for stage in network.blocks:
            for block in stage:
                x = block(x)
        return x.mean(dim=(2, 3), dtype=torch.float32)

    def _placed(self, tensor: Tensor) -> Tensor:
        """A tensor of its own on the device, in the right precision; a convolution's in channels last."""
        placed = tensor.to(self.device, self._dtype, copy=True)
        return placed.contiguous(memory_format=torch.channels_last) if placed.dim() == 4 else placed

    @torch.no_grad()
    def _fold(self, backbone: SlimmableResNet, width: float) -> _Network:
        scale, bias = _affine(backbone.bn1, width)
        blocks = tuple(
            tuple(self._fold_block(block, width) for block in stage.children()) for stage in backbone.stages.children()
        )
        return _Network(self._placed(scale[:, None, None]), self._placed(bias[:, None, None]), blocks)

    def _fold_block(self, block: nn.Module, width: float) -> _Block:
        pairs = [(f"conv{number}", f"bn{number}") for number in (1, 2, 3) if hasattr(block, f"conv{number}")]
        folded = tuple(self._folded(getattr(block, conv), getattr(block, norm), width) for conv, norm in pairs)
        shortcut = getattr(block, "shortcut_conv", None)
        return _Block(
            folded, None if shortcut is None else self._folded(shortcut, block.get_submodule("shortcut_bn"), width)
        )

    def _folded(self, convolution: SlimmableConv2d, norm: nn.Module, width: float) -> _Convolution:
        scale, bias = _affine(norm, width)
        part = convolution.weight[convolution.out_slices[width], convolution.in_slices[width]]
        weight = part.double() * scale[:, None, None, None]
        return _Convolution(self._placed(weight), self._placed(bias), convolution.stride[0])


def _affine(norm: nn.Module, width: float) -> tuple[Tensor, Tensor]:
    """What a width's batch norm does in eval mode."""
    own = norm.get_submodule(f"norms.{width_key(width)}")
    assert isinstance(own, nn.BatchNorm2d)
    return affine(own)


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm does in eval mode, x * scale + bias, in double precision, (channels,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale
