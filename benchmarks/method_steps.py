"""A training step of each method in several ways: ours, the plain one, and around torchvision's ResNet."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.bench_step import Step, autocast, combination, fused_sgd, ours, plain
from slimclr.methods import Method, MoCoV2, MoCoV3, SimCLR
from slimclr.nn import SlimmableResNet
from slimclr.nn.compiled import compile_widths
from slimclr.optim import LARS

METHODS = ("mocov2", "mocov3", "simclr")
TRUST, DECAY, MOMENTUM = 0.001, 1e-6, 0.9


class TorchvisionBackbone(nn.Module):
    """torchvision's ResNet in the place of a slimmable one of the single width 1.0."""

    widths, overlap = (1.0,), True

    def __init__(self, depth: int):
        super().__init__()
        self.net = {14: torchvision.models.resnet18, 50: torchvision.models.resnet50}[depth]()
        self.out_features = self.net.fc.in_features
        self.net.fc = nn.Identity()

    def first_convolutions(self, images: Tensor, widths: Sequence[float]) -> dict[float, None]:
        """The network computes its own."""
        return dict.fromkeys(widths)

    def forward(self, images: Tensor, width: float = 1.0, convolved: None = None) -> Tensor:
        """(n, 3, h, w) to (n, out_features)."""
        return self.net(images)


def method_of(name: str, backbone: Any, *, queue: int = 65536, hidden: int = 4096) -> Method:
    """A method with the paper's settings around a backbone, all of whose widths train."""
    combine = combination(backbone.widths, 1.0 if name == "mocov3" else 5.0)
    if name == "mocov2":
        return MoCoV2(backbone, queue=queue, combine=combine)
    if name == "mocov3":
        return MoCoV3(backbone, hidden=hidden, epochs=300, combine=combine)
    return SimCLR(backbone, combine=combine)


def optimizer_of(name: str) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """The paper's optimiser of a method."""
    if name == "mocov2":
        return fused_sgd
    return partial(LARS, lr=0.03, momentum=MOMENTUM, weight_decay=DECAY, trust=TRUST)


def our_step(
    name: str, method: Method, views: list[Tensor], device: torch.device, precision: str, *, compiled: bool = False
) -> Step:
    """The step as the training loop makes it; with torch.compile its first calls compile."""
    step = ours(method, views, device, precision, optimizer_of(name))
    if compiled:
        for module in method.modules():
            if isinstance(module, SlimmableResNet):
                compile_widths(module)
    return step


def torchvision_step(
    name: str, depth: int, views: list[Tensor], device: torch.device, precision: str, **sizes: int
) -> Step:
    """The same method around torchvision's network, channels last and with the same optimiser."""
    method = method_of(name, TorchvisionBackbone(depth), **sizes).to(memory_format=torch.channels_last)
    return ours(method, views, device, precision, optimizer_of(name))


def plain_step(name: str, method: Method, views: list[Tensor], device: torch.device, precision: str) -> Step:
    """The same step one tensor at a time: NCHW, eager, every width cuts its weights and convolves for itself."""
    if name == "mocov2":
        return plain(method, views, device, precision)
    method.to(device)
    for module in method.modules():
        if isinstance(module, SlimmableResNet):
            module.first_convolutions = lambda images, widths: dict.fromkeys(widths)
    parameters = list(method.trainable().parameters())
    buffers = [torch.zeros_like(parameter) for parameter in parameters]
    views = [view.to(device) for view in views]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    labels = torch.zeros(len(views[0]), dtype=torch.long, device=device)
    keys = method.key_encoder.parameters if isinstance(method, MoCoV3) else None

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        if keys is not None:
            for average, parameter in zip(keys(), method.query_encoder.base.parameters(), strict=True):
                average.data = average.data * 0.99 + parameter.data * 0.01
        with autocast(device, precision):
            # `forward` would cut the weights of all widths at once.
            loss = method.losses(views, labels, 0.0).loss
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        for parameter, buffer in zip(parameters, buffers, strict=True):
            _lars(parameter, buffer, scale)
        scaler.update(scale)
        loss.item()

    return step


@torch.no_grad()
def _lars(parameter: Tensor, buffer: Tensor, scale: float) -> None:
    """A step of LARS for one tensor, as `slimclr.optim.LARS` makes it for all."""
    assert parameter.grad is not None
    update = parameter.grad / scale
    if parameter.dim() > 1:
        update = update + DECAY * parameter
        weight, norm = parameter.norm(), update.norm()
        ratio = torch.where((weight > 0) & (norm > 0), TRUST * weight / norm, torch.ones_like(norm))
        update = update * ratio
    buffer.mul_(MOMENTUM).add_(update)
    parameter.sub_(0.03 * buffer)
