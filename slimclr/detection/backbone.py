"""The slimmable backbone as mmdet wants one, and the convolutions that take its narrow maps."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.device import get_device
from mmengine.model import BaseModule
from mmengine.registry import MODELS as LAYERS  # where mmcv looks for a convolution
from torch import Tensor, nn

from slimclr.errors import UserError
from slimclr.nn.layers import width_key
from slimclr.nn.placement import keep_strides
from slimclr.nn.resnet import build_backbone
from slimclr.nn.weights import load_backbone


@MODELS.register_module()
class SlimmableBackbone(BaseModule):
    """A pre-trained `SlimmableResNet`; its narrow maps are for `FirstChannelsConv2d`.

    No stage is frozen and every batch norm is trained. mmengine makes batch norms synchronised in a distributed run.

    Args:
        weights: File written by `slimclr.nn.weights.save_weights`; None where a detector's own tensors follow.
        shape: `SlimmableResNet.shape`, where there is no file.
        trained: Widths that are trained; None: all. What only others use is not moved.
        init_cfg: mmengine's, unused: the weights come from the file.
    """

    def __init__(
        self,
        weights: str | None = None,
        shape: dict[str, Any] | None = None,
        trained: Sequence[float] | None = None,
        init_cfg: None = None,
    ):
        super().__init__(init_cfg)
        self.network = build_backbone(**(shape or {})) if weights is None else load_backbone(weights)[0]
        known = self.network.widths
        if trained is not None and not set(trained) <= set(known):
            raise UserError(
                f"detection.widths {list(trained)}: the backbone has {', '.join(map(str, known))}; name some of these"
            )
        self.widths = known if trained is None else tuple(sorted(trained, reverse=True))
        """Those that are trained and evaluated, from the widest down."""
        idle = {width_key(width) for width in set(known) - set(self.widths)}
        for name, tensor in self.network.named_parameters():
            tensor.requires_grad_(not idle & set(name.split(".")))
        self.network.set_memory_formats(torch.device(get_device()))
        keep_strides(self.network)

    def other_parameters(self, width: float) -> list[nn.Parameter]:
        """Parameters that one width does not use at all: the other widths' batch norms."""
        others = {width_key(other) for other in self.widths} - {width_key(width)}
        parameters = self.network.named_parameters()
        return [tensor for name, tensor in parameters if tensor.requires_grad and others & set(name.split("."))]

    def forward(self, x: Tensor, width: float = 1.0) -> tuple[Tensor, ...]:
        """Compute C2 to C5.

        Args:
            x: Normalised images (n, 3, h, w).
            width: Which sub-network.

        Returns:
            Four maps (n, stage_channels[i] * width, h / 4 / 2^i, w / 4 / 2^i).
        """
        return self.network.feature_maps(x.contiguous(memory_format=torch.channels_last), width)


@LAYERS.register_module()
class FirstChannelsConv2d(nn.Conv2d):
    """A convolution of as many of its first input channels as a map has: FPN's, which all widths share.

    It equals filling a narrow map up with zeros, as the reference does, and takes 0.3 to 0.7 of the time on a CPU
    (docs/architecture.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, up to in_channels, h, w) to (n, out_channels, ...)."""
        return self._conv_forward(x, self.weight[:, : x.shape[1]], self.bias)
