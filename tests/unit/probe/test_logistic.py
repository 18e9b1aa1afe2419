"""Logistic regression of the quick probes."""

import builtins

import pytest
import torch

from slimclr.errors import UserError
from slimclr.probe.logistic import check_sklearn, logistic_scores


def blobs(count, classes=3):
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    centres = torch.eye(classes, 5)[labels]
    # Features of very different sizes, one of them always the same.
    features = (centres + 0.5 * torch.randn(count, 5, generator=generator)) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0])
    features[:, 4] = 7.0
    return features, labels


def test_scores_are_those_of_scikit_learns_pipeline():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (features, labels), (queries, _) = blobs(90), blobs(30)
    expected = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features.numpy(), labels.numpy())
    scores = logistic_scores(features, labels, queries, classes=3)
    torch.testing.assert_close(
        scores.exp(),
        torch.from_numpy(expected.predict_proba(queries.numpy())).double(),
        atol=1e-3,
        rtol=1e-3,
        check_dtype=False,
    )


def test_a_class_without_a_training_image_is_never_chosen():
    features, labels = blobs(60)
    kept = labels != 1
    scores = logistic_scores(features[kept], labels[kept], features, classes=4)
    assert scores.shape == (60, 4)
    assert set(scores.argmax(dim=1).tolist()) == {0, 2}
    assert scores[:, [1, 3]].isneginf().all()


def test_images_of_one_class_are_refused():
    with pytest.raises(UserError, match=r"quick.logistic: all training images are of one class"):
        logistic_scores(torch.randn(4, 2), torch.zeros(4, dtype=torch.long), torch.randn(2, 2), classes=2)


def test_without_scikit_learn_one_line_says_so(monkeypatch):
    there = builtins.__import__

    def without(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError("No module named 'sklearn'")
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"quick.logistic: scikit-learn cannot be imported .*install it"):
        check_sklearn()
