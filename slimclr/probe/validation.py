"""Accuracy on validation images while a training goes on."""

from typing import Any

import numpy as np
from torch import nn

from slimclr.data.loading.base import Loader
from slimclr.engine.distributed import Process, broadcast_buffers
from slimclr.errors import UserError
from slimclr.probe.evaluation import Classifier, evaluate
from slimclr.seeds import derived_seed


def fixed_part(count: int, wanted: int | None, seed: int, *, key: str) -> list[int]:
    """Which images are looked at every time: indices, ascending.

    Args:
        count: Images that there are.
        wanted: How many to draw; None: all.
        seed: Draws them.
        key: The setting's name, for the message.

    Raises:
        UserError: There are fewer.
    """
    if wanted is None:
        return list(range(count))
    if wanted > count:
        raise UserError(f"{key}: {wanted:,} of {count:,} validation images; name fewer, or leave it out for all")
    order = np.random.default_rng(derived_seed("validation", seed)).permutation(count)
    return np.sort(order[:wanted]).tolist()


class ValidationMonitor:
    """Evaluates a classifier on the same validation images each time; all processes call it.

    It draws no random numbers and changes nothing: the network goes on as it was, but that with several processes all
    have the first one's running statistics, which are those that are kept.

    Args:
        classifier: What is evaluated.
        network: The module that is switched to its running statistics and back.
        loader: The images, each exactly once over all processes.
        process: This process.
    """

    def __init__(self, classifier: Classifier, network: nn.Module, loader: Loader, *, process: Process):
        self.classifier, self.network, self.loader, self.process = classifier, network, loader, process

    def __call__(self) -> dict[str, Any]:
        """`{"val": {width: {"top1": percent, "top5": percent}}}`."""
        modes = [(module, module.training) for module in self.network.modules()]
        broadcast_buffers(self.network, self.process)
        accuracies = evaluate(self.classifier, self.loader, self.process.device)
        for module, training in modes:
            module.training = training
        return {
            "val": {
                str(width): {name: round(value, 4) for name, value in top.items()} for width, top in accuracies.items()
            }
        }
