"""Weighted nearest neighbours (arXiv 1805.01978, section 3.4), blockwise, and the rank of the right class."""

from collections.abc import Iterable

import torch
from torch import Tensor

Block = tuple[Tensor, Tensor]
"""Features (m, d) and their classes (m,)."""

_ROWS = 2048


def nearest(queries: Tensor, bank: Iterable[Block], neighbours: int) -> Block:
    """The most similar features of a bank that passes once, block by block; of equal ones the first in the bank.

    Args:
        queries: Features (n, d); of unit length, so that a product is a cosine.
        bank: Blocks of features of unit length and their classes, on the queries' device.
        neighbours: How many are wanted; all where the bank has fewer.

    Returns:
        Their cosines, descending, and their classes, (n, neighbours) each.
    """
    cosines = queries.new_full((len(queries), neighbours), -torch.inf)
    classes = torch.zeros(cosines.shape, dtype=torch.int64, device=queries.device)
    seen = 0
    for features, labels in bank:
        seen += len(features)
        for start in range(0, len(queries), _ROWS):
            rows = slice(start, start + _ROWS)
            found, places = _first_largest(queries[rows] @ features.T, neighbours)
            # What is there already comes from earlier in the bank: a stable sort leaves it before its equals.
            merged, order = torch.cat([cosines[rows], found], dim=1).sort(dim=1, descending=True, stable=True)
            cosines[rows] = merged[:, :neighbours]
            classes[rows] = torch.cat([classes[rows], labels[places]], dim=1).gather(1, order[:, :neighbours])
    return cosines[:, :seen], classes[:, :seen]


def _first_largest(values: Tensor, count: int) -> Block:
    """As `topk`, but of equal values those of the smaller index; values and indices, both in that order."""
    count = min(count, values.shape[1])
    places = values.topk(count, dim=1).indices
    least = values.gather(1, places).amin(dim=1, keepdim=True)
    # Only where more values than that reach the least one, topk had a choice.
    unclear = ((values >= least).sum(dim=1) > count).nonzero().flatten()
    if len(unclear):
        places[unclear] = values[unclear].sort(dim=1, descending=True, stable=True).indices[:, :count]
    places = places.sort(dim=1).values
    found, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return found, places.gather(1, order)


def votes(cosines: Tensor, labels: Tensor, *, classes: int, neighbours: int, temperature: float) -> Tensor:
    """Votes of the nearest features for every class, each weighted by exp((cosine - greatest) / temperature).

    The greatest cosine of a row changes no order, and keeps small temperatures from overflowing.

    Args:
        cosines: Cosines of the nearest features, descending (n, k).
        labels: Their classes (n, k).
        classes: Number of classes.
        neighbours: How many of the k vote.
        temperature: Softens the weights.

    Returns:
        Sums of weights (n, classes), float64.
    """
    near = cosines[:, :neighbours].double()
    weights = ((near - near[:, :1]) / temperature).exp()
    sums = torch.zeros(len(cosines), classes, dtype=torch.float64, device=cosines.device)
    return sums.scatter_add_(1, labels[:, :neighbours], weights)


def knn_predict(queries: Tensor, bank: Iterable[Block], *, classes: int, neighbours: int, temperature: float) -> Tensor:
    """The class with the most votes among the nearest features; arguments as for `nearest` and `votes`.

    Returns:
        Class of every query (n,).
    """
    cosines, labels = nearest(queries, bank, neighbours)
    return votes(cosines, labels, classes=classes, neighbours=neighbours, temperature=temperature).argmax(dim=1)


def ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Where the right class stands among all, from 0; of classes with the same score the first one stands before.

    Args:
        scores: (n, classes).
        targets: Right classes (n,).

    Returns:
        int64 (n,): 0 counts for top-1, 0 to 4 for top-5.
    """
    own = scores.gather(1, targets[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)
