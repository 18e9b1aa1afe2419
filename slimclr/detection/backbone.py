"""The slimmable backbone as mmdet wants one, and the convolutions that take its narrow maps."""

from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from slimclr.nn.layers import width_key
from slimclr.nn.resnet import build_backbone
from slimclr.nn.weights import load_backbone


@MODELS.register_module()
class SlimmableBackbone(BaseModule):
    """A pre-trained `SlimmableResNet`; its narrow maps are for `FirstChannelsConv2d`.

    No stage is frozen and every batch norm is trained. mmengine makes batch norms synchronised in a distributed run.

    Args:
        weights: File written by `slimclr.nn.weights.save_weights`; None where a detector's own tensors follow.
        shape: `SlimmableResNet.shape`, where there is no file.
        init_cfg: mmengine's, unused: the weights come from the file.
    """

    def __init__(self, weights: str | None = None, shape: dict[str, Any] | None = None, init_cfg: None = None):
        super().__init__(init_cfg)
        self.network = build_backbone(**(shape or {})) if weights is None else load_backbone(weights)[0]

    @property
    def widths(self) -> tuple[float, ...]:
        """Width multipliers, from the widest down."""
        return self.network.widths

    def other_parameters(self, width: float) -> list[nn.Parameter]:
        """Parameters that one width does not use at all: the other widths' batch norms."""
        others = {width_key(other) for other in self.widths} - {width_key(width)}
        return [tensor for name, tensor in self.network.named_parameters() if others & set(name.split("."))]

    def forward(self, x: Tensor, width: float = 1.0) -> tuple[Tensor, ...]:
        """Compute C2 to C5.

        Args:
            x: Normalised images (n, 3, h, w).
            width: Which sub-network.

        Returns:
            Four maps (n, stage_channels[i] * width, h / 4 / 2^i, w / 4 / 2^i).
        """
        return self.network.feature_maps(x, width)


@MODELS.register_module()
class FirstChannelsConv2d(nn.Conv2d):
    """A convolution of as many of its first input channels as a map has: FPN's, which all widths share.

    It equals filling a narrow map up with zeros, as the reference does, and takes 0.3 to 0.7 of the time on a CPU
    (docs/architecture.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, up to in_channels, h, w) to (n, out_channels, ...)."""
        return self._conv_forward(x, self.weight[:, : x.shape[1]], self.bias)
