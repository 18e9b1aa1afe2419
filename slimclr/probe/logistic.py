"""scikit-learn's logistic regression on features in memory, on request."""

import numpy as np
import torch
from torch import Tensor

from slimclr.errors import UserError

_ITERATIONS = 1000


def logistic_scores(features: Tensor, labels: Tensor, queries: Tensor, *, classes: int) -> Tensor:
    """Train on standardised features (L2 penalty, C = 1, lbfgs), and classify.

    Args:
        features: Training features (n, d), on the CPU.
        labels: Their classes (n,).
        queries: Features to classify (m, d).
        classes: Number of classes.

    Returns:
        Logarithms of probabilities (m, classes), -inf for a class without a training image.

    Raises:
        UserError: scikit-learn cannot be imported, or all training images are of one class.
    """
    check_sklearn()
    from sklearn.linear_model import LogisticRegression

    if len(labels.unique()) < 2:
        raise UserError("quick.logistic: all training images are of one class; it needs two")
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    model = LogisticRegression(max_iter=_ITERATIONS)
    model.fit(((features - mean) / deviation).numpy(), labels.numpy())
    found = np.full((len(queries), classes), -np.inf)
    found[:, model.classes_] = model.predict_log_proba(((queries - mean) / deviation).numpy())
    return torch.from_numpy(found)


def check_sklearn() -> None:
    """Refuse to go on without scikit-learn.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        import sklearn.linear_model  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"quick.logistic: scikit-learn cannot be imported ({error}); install it in this environment, or leave "
            "logistic out"
        ) from None
