"""`torch.compile` for slimmable networks: one graph for each width."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from slimclr.nn.resnet import SlimmableResNet

# Each width has a graph for training, one without gradients and one for evaluation.
_GRAPHS_PER_WIDTH = 4


def compile_widths(backbone: SlimmableResNet) -> None:
    """Compile the stages of a network, a graph for each width, when a width is first computed.

    Every width has its own callable, so widths neither evict nor recompile each other's graphs. The network's tensors
    and their names do not change.
    """
    torch._dynamo.config.recompile_limit = max(
        torch._dynamo.config.recompile_limit, _GRAPHS_PER_WIDTH * len(backbone.widths)
    )
    compiled: dict[float, Callable[[Tensor], tuple[Tensor, ...]]] = {
        width: torch.compile(partial(backbone.run_stages, width=width), dynamic=False) for width in backbone.widths
    }
    backbone.compiled = compiled
