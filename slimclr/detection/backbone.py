"""The slimmable backbone as mmdet wants one."""

from typing import Any

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from slimclr.nn.layers import width_key
from slimclr.nn.resnet import build_backbone
from slimclr.nn.weights import load_backbone


@MODELS.register_module()
class SlimmableBackbone(BaseModule):
    """A pre-trained `SlimmableResNet` whose maps have the full network's channels at every width.

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

        A narrow map is filled up with zeros to the full width, which equals using only the first channels of FPN's
        lateral convolutions: FPN and heads are shared by all widths.

        Args:
            x: Normalised images (n, 3, h, w).
            width: Which sub-network.

        Returns:
            Four maps (n, stage_channels[i], h / 4 / 2^i, w / 4 / 2^i).
        """
        maps = self.network.feature_maps(x, width)
        channels = self.network.stage_channels
        return tuple(F.pad(m, (0, 0, 0, 0, 0, full - m.shape[1])) for m, full in zip(maps, channels, strict=True))
