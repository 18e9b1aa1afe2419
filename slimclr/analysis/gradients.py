"""Gradient imbalance and divergence between widths (SlimCLR, section 3.3 and figure 3)."""

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slimclr.methods.gather import world_size
from slimclr.nn import SlimmableConv2d, SlimmableLinear


def gradient_record(
    module: nn.Module, losses: Mapping[float, Tensor], *, scale: float = 1.0
) -> dict[str, dict[str, dict[str, float]] | dict[str, float]]:
    """Compare the widths' gradients of the shared weights; one backward pass per width, which keeps the graph.

    Only convolutions and linear layers that widths share are looked at. Norms are of the whole loss's gradient: the
    mean over the layers of the norm within the width's slice, and of the norm outside it.

    Args:
        module: What is trained. No `.grad` is touched.
        losses: Weighted loss by width, with gradient, the widest first. Under several processes all must call this;
            gradients are averaged over them.
        scale: What the losses were multiplied by (a gradient scaler's), taken out again.

    Returns:
        `widths`: by width `norm_used`, `norm_rest` and `ratio`, the first over the second (NaN at width 1.0, which has
        no rest). `cosine`: by `<wider>/<narrower>`, between the two widths' gradients over what both use. `last_layer`:
        the two largest singular values of the whole gradient of the last shared layer.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, SlimmableConv2d | SlimmableLinear)]
    gradients = {width: _gradients(loss, layers, scale) for width, loss in losses.items()}
    whole = [torch.stack(parts).sum(dim=0) for parts in zip(*gradients.values(), strict=True)]
    widths = {}
    for width in losses:
        used = torch.stack(
            [_used(gradient, layer, width).norm() for gradient, layer in zip(whole, layers, strict=True)]
        )
        every = torch.stack([gradient.norm() for gradient in whole])
        rest = (every.square() - used.square()).clamp(min=0).sqrt()
        norm_used, norm_rest = used.mean().item(), rest.mean().item()
        ratio = norm_used / norm_rest if width != 1.0 and norm_rest else float("nan")
        widths[str(width)] = {"norm_used": norm_used, "norm_rest": norm_rest, "ratio": ratio}
    cosine = {}
    for wide, narrow in combinations(losses, 2):
        both = [
            torch.cat([_used(g, layer, narrow).flatten() for g, layer in zip(gradients[width], layers, strict=True)])
            for width in (wide, narrow)
        ]
        cosine[f"{wide}/{narrow}"] = (both[0] @ both[1] / (both[0].norm() * both[1].norm())).item()
    values = torch.linalg.svdvals(whole[-1].flatten(1).float())[:2].tolist()
    return {"widths": widths, "cosine": cosine, "last_layer": {"singular_1": values[0], "singular_2": values[-1]}}


def _gradients(loss: Tensor, layers: list[SlimmableConv2d | SlimmableLinear], scale: float) -> list[Tensor]:
    weights = [layer.weight for layer in layers]
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    processes = world_size()
    result = []
    for weight, gradient in zip(weights, gradients, strict=True):
        mean = (torch.zeros_like(weight) if gradient is None else gradient) / (scale * processes)
        if processes > 1:
            dist.all_reduce(mean)
        result.append(mean)
    return result


def _used(gradient: Tensor, layer: SlimmableConv2d | SlimmableLinear, width: float) -> Tensor:
    return gradient[layer.out_slices[width], layer.in_slices[width]]
