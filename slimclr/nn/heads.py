"""Projection heads and classifiers."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.nn.layers import SlimmableLinear, SwitchableBatchNorm1d, SwitchableLinear


def init_linear(module: nn.Module) -> None:
    """N(0, 0.01) weights and zero biases for every linear layer (the reference's initial values)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """MoCo v2's projection head: Linear(in w, in w)-ReLU-Linear(in w, out), with biases, no batch norm.

    Args:
        in_features: Features of the backbone at width 1.0; also the hidden layer's size.
        out_features: Size of the embedding, the same at every width.
        widths: Width multipliers.
        switchable: Each width has layers of its own, instead of a part of the full network's.
        init: "normal": N(0, 0.01) weights and zero biases, the reference's for slimmable networks; "default":
            PyTorch's, the reference's for its baselines, and safer for small networks.
        overlap: See `channel_slices`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        widths: Sequence[float],
        *,
        switchable: bool = False,
        init: str = "normal",
        overlap: bool = True,
    ):
        super().__init__()
        self.fc1: SlimmableLinear | SwitchableLinear
        self.fc2: SlimmableLinear | SwitchableLinear
        if switchable:
            self.fc1 = SwitchableLinear(in_features, in_features, widths)
            self.fc2 = SwitchableLinear(in_features, out_features, widths, fixed_out=True)
        else:
            self.fc1 = SlimmableLinear(in_features, in_features, widths, overlap=overlap)
            self.fc2 = SlimmableLinear(in_features, out_features, widths, fixed_out=True, overlap=overlap)
        if init == "normal":
            init_linear(self)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, in * width) to (n, out)."""
        return self.fc2(F.relu(self.fc1(x, width), inplace=True), width)


class MoCoV3Projector(nn.Module):
    """MoCo v3's projector: Linear(in w, hidden w)-BN-ReLU-Linear(hidden w, out)-BN without affine, no biases.

    Args:
        in_features: Inputs at width 1.0.
        hidden: Hidden features at width 1.0.
        out_features: Size of the embedding, the same at every width.
        widths: Width multipliers.
        overlap: See `channel_slices`.
    """

    first_bias = last_affine = False

    def __init__(
        self, in_features: int, hidden: int, out_features: int, widths: Sequence[float], *, overlap: bool = True
    ):
        super().__init__()
        self.fc1 = SlimmableLinear(in_features, hidden, widths, bias=self.first_bias, overlap=overlap)
        self.bn1 = SwitchableBatchNorm1d(hidden, widths)
        self.fc2 = SlimmableLinear(hidden, out_features, widths, bias=False, fixed_out=True, overlap=overlap)
        self.bn2 = SwitchableBatchNorm1d(out_features, widths, affine=self.last_affine, fixed=True)
        init_linear(self)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, in * width) to (n, out)."""
        return self.bn2(self.fc2(F.relu(self.bn1(self.fc1(x, width), width), inplace=True), width), width)


class SimCLRHead(MoCoV3Projector):
    """SimCLR's head: as `MoCoV3Projector`, but the first linear layer has a bias and the last batch norm is affine."""

    first_bias = last_affine = True


class MoCoV3Predictor(nn.Module):
    """MoCo v3's predictor: Linear(d, hidden w)-BN-ReLU-Linear(hidden w, d), no biases, PyTorch's initial weights.

    Args:
        features: Size of the embedding.
        hidden: Hidden features at width 1.0.
        widths: Width multipliers.
        overlap: See `channel_slices`.
    """

    def __init__(self, features: int, hidden: int, widths: Sequence[float], *, overlap: bool = True):
        super().__init__()
        self.fc1 = SlimmableLinear(features, hidden, widths, bias=False, fixed_in=True, overlap=overlap)
        self.bn1 = SwitchableBatchNorm1d(hidden, widths)
        self.fc2 = SlimmableLinear(hidden, features, widths, bias=False, fixed_out=True, overlap=overlap)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, d) to (n, d)."""
        return self.fc2(F.relu(self.bn1(self.fc1(x, width), width), inplace=True), width)


def classifier(
    in_features: int, classes: int, widths: Sequence[float], *, switchable: bool, overlap: bool = True
) -> SlimmableLinear | SwitchableLinear:
    """A linear classifier, N(0, 0.01) weights and zero biases.

    Args:
        in_features: Features of the backbone at width 1.0.
        classes: Outputs.
        widths: Width multipliers.
        switchable: One for each width (the linear probe), instead of one whose inputs the widths share.
        overlap: See `channel_slices`.
    """
    layer: SlimmableLinear | SwitchableLinear
    if switchable:
        layer = SwitchableLinear(in_features, classes, widths, fixed_out=True)
    else:
        layer = SlimmableLinear(in_features, classes, widths, fixed_out=True, overlap=overlap)
    init_linear(layer)
    return layer
