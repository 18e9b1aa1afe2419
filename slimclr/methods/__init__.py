"""Training methods: each is a module whose `forward` gives a loss per width."""

from collections.abc import Callable

from slimclr.methods.base import DistillationLoss, Method, Output, SubNetworkLoss, WidthResult
from slimclr.methods.mocov2 import MoCoV2
from slimclr.methods.mocov3 import MoCoV3
from slimclr.methods.simclr import SimCLR
from slimclr.methods.supervised import Supervised

METHODS: dict[str, Callable[..., Method]] = {
    "mocov2": MoCoV2,
    "mocov3": MoCoV3,
    "simclr": SimCLR,
    "supervised": Supervised,
}

__all__ = [
    "METHODS",
    "DistillationLoss",
    "Method",
    "MoCoV2",
    "MoCoV3",
    "Output",
    "SimCLR",
    "SubNetworkLoss",
    "Supervised",
    "WidthResult",
]
