"""Batches gathered over all processes; with a single process the functions change nothing."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

from slimclr.seeds import derived_seed


def world_size() -> int:
    """Number of processes; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes, in the order of ranks; without gradient."""
    if world_size() == 1:
        return tensor
    rows = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(rows, tensor.contiguous())
    return torch.cat(rows)


def shuffle(images: Tensor, *, seed: int, step: int, always: bool) -> tuple[Tensor, Tensor | None]:
    """Shuffle the images over all processes (MoCo's shuffling BN), so that batch norm does not leak which key fits.

    Args:
        images: This process's images (n, ...).
        seed: Seed of the order, with `step`: all processes draw the same one without communication.
        step: Number of the forward pass.
        always: Shuffle even with a single process.

    Returns:
        This process's share of the shuffled images, and the permutation (None: not shuffled).
    """
    if world_size() == 1 and not always:
        return images, None
    everything = gather(images)
    generator = torch.Generator().manual_seed(derived_seed("shuffle", seed, step))
    order = torch.randperm(len(everything), generator=generator).to(images.device, non_blocking=True)
    return everything[order.view(world_size(), -1)[rank()]], order


def unshuffle(keys: Tensor, order: Tensor | None) -> Tensor:
    """Undo `shuffle` on the keys (n, d)."""
    if order is None:
        return keys
    return gather(keys)[order.argsort().view(world_size(), -1)[rank()]]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Rows of all processes with gradient; every process's loss reaches the rows of every other."""
    if world_size() == 1:
        return tensor
    return torch.cat(differentiable.all_gather(tensor))
