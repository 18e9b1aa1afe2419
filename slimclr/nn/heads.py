"""Projection heads and classifiers."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.nn.layers import SlimmableLinear, SwitchableBatchNorm1d, channel_slices, width_key


class SlimmableMLP(nn.Module):
    """MoCo v2's projection head, slimmable: Linear(in w, in w)-ReLU-Linear(in w, out), with biases, no batch norm.

    Args:
        in_features: Features of the backbone at width 1.0; also the hidden layer's size.
        out_features: Size of the embedding, the same at every width.
        widths: Width multipliers.
        init: "normal": N(0, 0.01) weights and zero biases, the reference's for slimmable networks; "default":
            PyTorch's, the reference's for its baselines, and safer for small networks.
    """

    def __init__(self, in_features: int, out_features: int, widths: Sequence[float], *, init: str = "normal"):
        super().__init__()
        self.fc1 = SlimmableLinear(in_features, in_features, widths)
        self.fc2 = SlimmableLinear(in_features, out_features, widths, fixed_out=True)
        if init == "normal":
            for layer in (self.fc1, self.fc2):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

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
    """

    def __init__(self, in_features: int, hidden: int, out_features: int, widths: Sequence[float]):
        super().__init__()
        self.fc1 = SlimmableLinear(in_features, hidden, widths, bias=False)
        self.bn1 = SwitchableBatchNorm1d(hidden, widths)
        self.fc2 = SlimmableLinear(hidden, out_features, widths, bias=False, fixed_out=True)
        self.bn2 = SwitchableBatchNorm1d(out_features, widths, affine=False, fixed=True)
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, in * width) to (n, out)."""
        return self.bn2(self.fc2(F.relu(self.bn1(self.fc1(x, width), width), inplace=True), width), width)


class MoCoV3Predictor(nn.Module):
    """MoCo v3's predictor: Linear(d, hidden w)-BN-ReLU-Linear(hidden w, d), no biases, PyTorch's initial weights.

    Args:
        features: Size of the embedding.
        hidden: Hidden features at width 1.0.
        widths: Width multipliers.
    """

    def __init__(self, features: int, hidden: int, widths: Sequence[float]):
        super().__init__()
        self.fc1 = SlimmableLinear(features, hidden, widths, bias=False, fixed_in=True)
        self.bn1 = SwitchableBatchNorm1d(hidden, widths)
        self.fc2 = SlimmableLinear(hidden, features, widths, bias=False, fixed_out=True)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, d) to (n, d)."""
        return self.fc2(F.relu(self.bn1(self.fc1(x, width), width), inplace=True), width)


class SimCLRHead(nn.Module):
    """SimCLR's head: Linear(in w, in w)-BN-ReLU-Linear(in w, out, no bias)-BN.

    Args:
        in_features: Inputs at width 1.0; also the hidden layer's size.
        out_features: Size of the embedding, the same at every width.
        widths: Width multipliers.
    """

    def __init__(self, in_features: int, out_features: int, widths: Sequence[float]):
        super().__init__()
        self.fc1 = SlimmableLinear(in_features, in_features, widths)
        self.bn1 = SwitchableBatchNorm1d(in_features, widths)
        self.fc2 = SlimmableLinear(in_features, out_features, widths, bias=False, fixed_out=True)
        self.bn2 = SwitchableBatchNorm1d(out_features, widths, fixed=True)
        nn.init.zeros_(self.fc1.bias)
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, in * width) to (n, out)."""
        return self.bn2(self.fc2(F.relu(self.bn1(self.fc1(x, width), width), inplace=True), width), width)


class SwitchableLinear(nn.Module):
    """One linear classifier per width, N(0, 0.01) weights and zero biases (the linear probe).

    Args:
        in_features: Features of the backbone at width 1.0.
        out_features: Classes.
        widths: Width multipliers.
    """

    def __init__(self, in_features: int, out_features: int, widths: Sequence[float]):
        super().__init__()
        slices = channel_slices(in_features, widths)
        self.linears = nn.ModuleDict({width_key(w): nn.Linear(s.stop, out_features) for w, s in slices.items()})
        for linear in self.linears.children():
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Map (n, in * width) to (n, out)."""
        return self.linears[width_key(width)](x)
