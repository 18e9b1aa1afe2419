"""Contrastive losses."""

import torch
from torch import Tensor


def info_nce_logits(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """Similarities of each query to its own key and to the queue, without temperature (MoCo, equation 1).

    Args:
        query: (n, d), rows of unit length.
        key: (n, d), rows of unit length, without gradient.
        queue: (d, k), columns of unit length.

    Returns:
        (n, 1 + k); the positive is column 0.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    return torch.cat([positive, query @ queue], dim=1)


def nt_xent_logits(first: Tensor, second: Tensor, all_first: Tensor, all_second: Tensor, *, offset: int = 0) -> Tensor:
    """Similarities of each view to its other view and to all other images' views, without temperature (SimCLR, eq. 1).

    Args:
        first: This process's embeddings of view 1 (n, d), rows of unit length.
        second: Of view 2 (n, d).
        all_first: Of view 1 over all processes (m, d), this process's rows from `offset` on.
        all_second: Of view 2 over all processes (m, d).
        offset: Where this process's rows begin.

    Returns:
        (2n, 2m - 1), view 1's rows before view 2's; the positive is column 0.
    """
    everyone = torch.cat([all_first, all_second])
    n, m = len(first), len(all_first)
    own = torch.arange(n, device=first.device) + offset
    similar = torch.cat([first, second]) @ everyone.T
    itself, partner = torch.cat([own, own + m]), torch.cat([own + m, own])
    rows = torch.arange(2 * n, device=first.device)
    negative = torch.ones_like(similar, dtype=torch.bool)
    negative[rows, itself] = False
    negative[rows, partner] = False
    return torch.cat([similar[rows, partner, None], similar[negative].view(2 * n, 2 * m - 2)], dim=1)
