"""Slimmable layers, networks and heads."""

from slimclr.nn.heads import MLP, MoCoV3Predictor, MoCoV3Projector, SimCLRHead, classifier
from slimclr.nn.layers import (
    SlimmableConv2d,
    SlimmableLinear,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    SwitchableLinear,
    channel_slices,
    width_key,
    widths_together,
)
from slimclr.nn.resnet import SlimmableCifarResNet, SlimmableResNet, build_backbone

__all__ = [
    "MLP",
    "MoCoV3Predictor",
    "MoCoV3Projector",
    "SimCLRHead",
    "SlimmableCifarResNet",
    "SlimmableConv2d",
    "SlimmableLinear",
    "SlimmableResNet",
    "SwitchableBatchNorm1d",
    "SwitchableBatchNorm2d",
    "SwitchableLinear",
    "build_backbone",
    "channel_slices",
    "classifier",
    "width_key",
    "widths_together",
]
