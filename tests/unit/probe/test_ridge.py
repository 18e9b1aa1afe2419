"""Ridge against scikit-learn's figures and a direct solution, in blocks."""

import numpy as np
import pytest
import torch

from slimclr.errors import UserError
from slimclr.probe.ridge import Moments, moments, penalty_unit, ridge

CPU = torch.device("cpu")
# scikit-learn 1.9.1: Ridge(alpha=0.5).fit(x, np.eye(3)[y]) on the data of `small`.
COEFFICIENTS = [
    [-0.025623, -0.302977, -0.004317, -0.377998],
    [0.083911, 0.621889, -0.045253, -0.05624],
    [-0.058289, -0.318911, 0.04957, 0.434238],
]
INTERCEPTS = [1.843702, -0.969569, 0.125866]


def small():
    image, feature = np.arange(12)[:, None], np.arange(1, 5)[None]
    features = np.sin(image * feature) + 0.3 * (image % 3 == feature % 3) + 2
    return torch.from_numpy(features), torch.arange(12) % 3


def summed(features, labels, size, classes=3):
    parts = zip(features.split(size), labels.split(size), strict=True)
    return moments(parts, features=features.shape[1], classes=classes, device=CPU)


@pytest.mark.parametrize("size", [12, 5, 1])
def test_blocks_of_any_size_give_scikit_learns_classifier(size):
    sums = summed(*small(), size)
    (found,) = ridge(sums, [0.5 / penalty_unit(sums)])
    assert found.weight.numpy() == pytest.approx(np.array(COEFFICIENTS), abs=1e-6)
    assert found.bias.numpy() == pytest.approx(np.array(INTERCEPTS), abs=1e-6)


def test_several_penalties_equal_direct_solutions_and_parts_add_up():
    rng = np.random.default_rng(0)
    # As a backbone's: float32, far from zero, of very different sizes, some always the same.
    features = (rng.standard_normal((300, 20)) * np.exp(rng.standard_normal(20)) + 3).astype(np.float32)
    features[:, :3] = 0
    labels = rng.integers(0, 7, 300)
    rows, targets = torch.from_numpy(features), torch.from_numpy(labels)
    sums = summed(rows[:100], targets[:100], 33, 7) + summed(rows[100:], targets[100:], 41, 7)
    penalties = [1e-6, 1e-3, 1.0]
    double, hot = features.astype(np.float64), np.eye(7)[labels]
    centred = double - double.mean(axis=0)
    for penalty, found in zip(penalties, ridge(sums, penalties), strict=True):
        alpha = penalty * centred.var(axis=0).mean() * 300
        weight = np.linalg.solve(centred.T @ centred + alpha * np.eye(20), centred.T @ (hot - hot.mean(axis=0)))
        wanted = centred @ weight + hot.mean(axis=0)
        assert found.scores(rows).numpy() == pytest.approx(wanted, abs=1e-9)


def test_features_that_are_all_the_same_say_the_most_frequent_class():
    sums = summed(torch.ones(5, 2), torch.tensor([0, 1, 1, 1, 2]), 2)
    (found,) = ridge(sums, [1.0])
    assert found.scores(torch.ones(1, 2)).tolist() == [pytest.approx([0.2, 0.6, 0.2])]


def test_fewer_images_than_classes_are_refused():
    with pytest.raises(UserError, match="2 training images, without those of held_out, for 3 classes; give it"):
        ridge(summed(torch.ones(2, 2), torch.tensor([0, 1]), 2), [1.0])
    assert Moments.zero(2, 3, CPU).counts.tolist() == [0, 0, 0]
