"""Widths that were never trained (universally slimmable networks, arXiv 1903.05134, section 3.2).

The convolutions are those that all widths share. Batch norms are each width's own, so a further width begins with the
scale and shift of the next wider one's first channels, and its statistics are measured on training images.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from slimclr.nn.layers import width_key
from slimclr.nn.resnet import SlimmableResNet, build_backbone


def next_wider(width: float, trained: Sequence[float]) -> float:
    """The narrowest trained width that is not below `width`.

    Raises:
        ValueError: None is as wide.
    """
    wider = [other for other in trained if other >= width]
    if not wider:
        raise ValueError(f"no trained width is as wide as {width}")
    return min(wider)


def with_further_widths(backbone: SlimmableResNet, widths: Sequence[float]) -> SlimmableResNet:
    """A network with the same tensors and further widths, whose batch norms have no statistics yet.

    Args:
        backbone: The trained network, on the CPU.
        widths: Widths that it lacks.

    Raises:
        ValueError: A width does not give whole channels, or sub-networks of this network share no channels.
    """
    if not backbone.overlap:
        raise ValueError("its sub-networks share no channels, so there is nothing between them")
    network = build_backbone(backbone.depth, backbone.base_width, (*backbone.widths, *widths))
    state = dict(backbone.state_dict())
    wider = {width_key(width): width_key(next_wider(width, backbone.widths)) for width in widths}
    for name, tensor in network.state_dict().items():
        if name not in state:
            # The width is the last part of a name but one.
            norms, key, kind = name.rsplit(".", 2)
            source = state[f"{norms}.{wider[key]}.{kind}"]
            state[name] = source[: len(tensor)] if tensor.dim() else torch.zeros_like(tensor)
    network.load_state_dict(state)
    return network.eval()


@torch.no_grad()
def recalibrate(backbone: SlimmableResNet, widths: Sequence[float], batches: Iterable[Tensor]) -> int:
    """Measure the running statistics of some widths' batch norms: the mean of what the batches have.

    Nothing else of the network changes.

    Args:
        backbone: On the device of the batches.
        widths: Some of its widths.
        batches: Images (n, 3, h, w), equally many in each.

    Returns:
        How many images there were.
    """
    backbone.eval()
    keys = {width_key(width) for width in widths}
    norms = [
        norm
        for name, norm in backbone.named_modules()
        if isinstance(norm, nn.BatchNorm2d) and name.rpartition(".")[2] in keys
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None: every batch counts the same, whenever it comes.
        norm.momentum = None
        norm.train()
    images = 0
    for batch in batches:
        images += len(batch)
        for width in widths:
            backbone(batch, width)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return images
