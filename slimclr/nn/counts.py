"""Parameters and multiply-adds of a backbone per width."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from slimclr.nn.layers import used_slices
from slimclr.nn.resnet import SlimmableResNet


def count_parameters(backbone: SlimmableResNet, width: float) -> int:
    """Parameters that one width uses (its own batch norm's included, running statistics not)."""
    return sum(tensor.numel() for tensor in used_slices(backbone, width).values())


def count_macs(backbone: SlimmableResNet, width: float, *, image_size: int) -> int:
    """Multiply-adds of one image of `image_size` pixels a side, as the slimmable-networks paper counts "FLOPs"."""
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, image_size, image_size, device=device), width)
    backbone.train(training)
    return counter.get_total_flops() // 2
