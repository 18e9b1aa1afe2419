"""A linear probe that learns beside a self-supervised training, to watch it by."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.engine.distributed import Process
from slimclr.methods import Method
from slimclr.nn import SlimmableResNet, SwitchableLinear, classifier
from slimclr.seeds import derived_seed


class OnlineProbe:
    """A linear classifier for every width on the features that a training computes anyway.

    It sees them detached and moves its own weights alone: the training is the same with and without it.

    Args:
        method: What is trained, on its device; its forward is given the labels.
        backbone: Its network.
        classes: Number of classes.
        lr: Learning rate of SGD with momentum 0.9, constant.
        seed: Seed of the initial weights.
        process: This process; gradients are means over all.

    Attributes:
        head: The classifiers.
    """

    def __init__(
        self, method: Method, backbone: SlimmableResNet, classes: int, *, lr: float, seed: int, process: Process
    ):
        # The training's own random numbers must stay what they are.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("online", seed))
            head = classifier(backbone.out_features, classes, backbone.widths, switchable=True)
        assert isinstance(head, SwitchableLinear)
        self.head, self._process = head.to(process.device), process
        self._optimizer = torch.optim.SGD(self.head.parameters(), lr=lr, momentum=0.9)
        self._features: dict[float, Tensor] = {}
        backbone.register_forward_hook(self._keep)
        method.register_forward_hook(self._learn)

    def state_dict(self) -> dict[str, Any]:
        """Classifiers and optimiser."""
        return {"head": self.head.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.head.load_state_dict(state["head"])
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        # The recipe's, which may have changed.
        for group, lr in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = lr

    def _keep(self, backbone: nn.Module, arguments: tuple[Any, ...], features: Tensor) -> None:
        """Keep the features of a width; of several views the last one's."""
        if backbone.training and torch.is_grad_enabled():
            self._features[arguments[1] if len(arguments) > 1 else 1.0] = features.detach().float()

    def _learn(self, method: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """One step on what was kept."""
        features, self._features = self._features, {}
        if not features:
            return
        labels = arguments[1]
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._process.device.type, enabled=False), torch.enable_grad():
            # A method that computes its views at once has several rows of an image.
            losses = [
                F.cross_entropy(self.head(rows, width), labels.repeat(len(rows) // len(labels)))
                for width, rows in features.items()
            ]
            torch.stack(losses).sum().backward()
        for parameter in self.head.parameters():
            if parameter.grad is not None and self._process.world_size > 1:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self._process.world_size
        self._optimizer.step()
