"""The network of a recipe."""

from slimclr import nn
from slimclr.config import Backbone
from slimclr.nn import SlimmableResNet


def build_backbone(settings: Backbone) -> SlimmableResNet:
    """The slimmable ResNet of a recipe, with initial weights drawn from torch's generator."""
    return nn.build_backbone(**settings.model_dump())
