"""Weighted nearest neighbours against a brute-force oracle, in blocks of any size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slimclr.probe.neighbours import knn_predict, nearest, ranks, votes


def drawn(queries=40, bank=90, features=8, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    one, other = (F.normalize(torch.randn(n, features, generator=generator), dim=1) for n in (queries, bank))
    return one, other, torch.randint(classes, (bank,), generator=generator)


def blocks(bank, labels, size):
    return zip(bank.split(size), labels.split(size), strict=True)


def oracle(query, bank, labels, *, classes, neighbours, temperature):
    """Votes of one query relative to the nearest, by sorting everything; of equally near ones the first count."""
    cosines = (bank.double() @ query.double()).numpy().astype(np.float32)
    sums = np.zeros(classes)
    for near in np.argsort(-cosines, kind="stable")[:neighbours]:
        sums[labels[near]] += np.exp(float(cosines[near]) / temperature)
    return sums / np.exp(float(cosines.max()) / temperature)


@pytest.mark.parametrize("size", [90, 32, 7, 1])
@pytest.mark.parametrize(("neighbours", "temperature"), [(10, 0.07), (20, 0.1), (200, 0.07)])
def test_blocks_of_any_size_give_the_brute_force_answers(size, neighbours, temperature):
    queries, bank, labels = drawn()
    settings = {"classes": 6, "neighbours": neighbours, "temperature": temperature}
    cosines, found = nearest(queries, blocks(bank, labels, size), 200)
    assert cosines.shape == (40, 90)
    sums = votes(cosines, found, **settings)
    predicted = knn_predict(queries, blocks(bank, labels, size), **settings)
    for query, own, answer in zip(queries, sums, predicted, strict=True):
        wanted = oracle(query, bank, labels, **settings)
        assert own.numpy() == pytest.approx(wanted, rel=1e-4)
        assert answer == wanted.argmax()


@pytest.mark.parametrize("size", [60, 13, 4])
def test_of_equally_near_images_the_first_ones_vote_whatever_the_blocks(size):
    generator = torch.Generator().manual_seed(1)
    # Products of small whole numbers are exact, and most of them occur many times.
    queries, bank = (torch.randint(-2, 3, (n, 3), generator=generator).float() for n in (50, 60))
    labels = torch.arange(60)
    for neighbours in (1, 5, 20):
        _, found = nearest(queries, blocks(bank, labels, size), neighbours)
        wanted = (queries @ bank.T).sort(dim=1, descending=True, stable=True).indices[:, :neighbours]
        assert torch.equal(found, wanted)


def test_a_bank_that_holds_the_queries_neighbours_is_right():
    bank = torch.eye(3)
    settings = {"classes": 3, "neighbours": 200, "temperature": 0.07}
    assert knn_predict(bank, [(bank, torch.tensor([2, 0, 1]))], **settings).tolist() == [2, 0, 1]


def test_the_rank_counts_better_classes_and_equal_ones_before():
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    for target, wanted in ((0, [0, 0]), (1, [2, 1]), (2, [1, 2]), (3, [3, 3])):
        assert ranks(scores, torch.tensor([target, target])).tolist() == wanted


def test_a_small_temperature_leaves_the_nearest_image_alone():
    cosines = torch.tensor([[0.9, 0.8, 0.8, 0.8]])
    sums = votes(cosines, torch.tensor([[2, 1, 1, 1]]), classes=4, neighbours=4, temperature=1e-4)
    assert sums.isfinite().all()
    assert sums.argmax(dim=1).item() == 2
