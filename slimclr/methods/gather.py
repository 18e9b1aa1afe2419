"""Batches gathered over all processes; with a single process the functions change nothing."""

from collections.abc import Sequence

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


def deal(batches: Sequence[Tensor], *, seed: int, step: int) -> tuple[list[Tensor], Tensor]:
    """Shuffle a step's images over all batches of all processes (MoCo's shuffling BN), so that a batch norm does not
    give away which key belongs to a query.

    Args:
        batches: This process's batches of images, each (n, channels, h, w).
        seed: Seed of the order, with `step`: all processes draw the same one without communication.
        step: Number of the optimiser step.

    Returns:
        As many batches of shuffled images, in `torch.channels_last`, and the order: the shuffled image i is image
        `order[i]` of all, which are counted process by process.
    """
    # Gathered and indexed with channels last, as the encoder computes fastest.
    everything = gather(torch.cat(list(batches)).permute(0, 2, 3, 1))
    generator = torch.Generator().manual_seed(derived_seed("shuffle", seed, step))
    order = torch.randperm(len(everything), generator=generator).to(everything.device, non_blocking=True)
    own = order.view(world_size(), -1)[rank()]
    return [everything[part].permute(0, 3, 1, 2) for part in own.chunk(len(batches))], order


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Rows of all processes with gradient; every process's loss reaches the rows of every other."""
    if world_size() == 1:
        return tensor
    return torch.cat(differentiable.all_gather(tensor))
