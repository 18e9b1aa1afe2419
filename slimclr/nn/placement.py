"""Moves networks to their device, in the memory format that is fastest there."""

from functools import partial

import torch
from torch import Tensor, nn

from slimclr.nn.resnet import SlimmableResNet


def allow_tf32(allowed: bool) -> None:
    """Let a GPU choose its fastest kernels, and its fp32 convolutions and matrix products use TF32 or not."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")


def place(module: nn.Module, device: torch.device) -> None:
    """Move a network to a device, with convolutions in their fastest memory format."""
    module.to(device)
    for network in module.modules():
        if isinstance(network, SlimmableResNet):
            network.set_memory_formats(device)
    keep_strides(module)


def keep_strides(module: nn.Module) -> None:
    """Give convolutions' gradients their weights' strides, as DistributedDataParallel wants them."""
    for parameter in module.parameters():
        if parameter.dim() == 4 and parameter.requires_grad:
            parameter.register_hook(partial(_with_strides, parameter.stride()))


def _with_strides(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    """A convolution's gradient with its weight's strides; DistributedDataParallel warns about any others."""
    if gradient.stride() == strides:
        return gradient
    last = strides[1] == 1
    gradient = gradient.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    # A 1x1 kernel's strides have several names for the same places.
    return gradient.as_strided(gradient.shape, strides)
