"""Slimmable layers, networks and heads."""

from slimclr.nn.heads import MoCoV3Predictor, MoCoV3Projector, SimCLRHead, SlimmableMLP, SwitchableLinear
from slimclr.nn.layers import (
    SlimmableConv2d,
    SlimmableLinear,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    channel_slices,
    width_key,
)
from slimclr.nn.resnet import SlimmableResNet

__all__ = [
    "MoCoV3Predictor",
    "MoCoV3Projector",
    "SimCLRHead",
    "SlimmableConv2d",
    "SlimmableLinear",
    "SlimmableMLP",
    "SlimmableResNet",
    "SwitchableBatchNorm1d",
    "SwitchableBatchNorm2d",
    "SwitchableLinear",
    "channel_slices",
    "width_key",
]
