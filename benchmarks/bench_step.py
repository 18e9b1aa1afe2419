"""A training step of SlimCLR-MoCo v2 against plain PyTorch, against torchvision's ResNet-50, and by widths. JSON.

    python -m benchmarks.bench_step [--quick] [--image-size 96] [--batch 16] [--repeats 5] [--precision fp32]

"plain" is the same step written one tensor at a time: NCHW, every width's own first convolution, an optimiser and a
moving average that loop over the parameters. "torchvision" is MoCo v2 written directly around torchvision's ResNet-50.
The variants take turns, each round in the other order; a ratio is the median over the rounds. "checkpoint" is written
to the current folder's disk.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.timing import machine, timed
from slimclr.engine.checkpoints import CheckpointManager
from slimclr.losses import kl_distillation, loss_weights
from slimclr.methods import Method, MoCoV2, SubNetworkLoss
from slimclr.nn import SlimmableResNet
from slimclr.nn.counts import count_macs
from slimclr.nn.placement import place

WIDTHS = (1.0, 0.75, 0.5, 0.25)
AMP = {"fp16": torch.float16, "bf16": torch.bfloat16}
Step = Callable[[], None]


def autocast(device: torch.device, precision: str) -> Any:
    """The precision of a forward pass."""
    return torch.autocast(device.type, AMP.get(precision, torch.float16), enabled=precision in AMP)


def combination(widths: tuple[float, ...], temperature: float = 5.0) -> SubNetworkLoss:
    """The paper's weights and distillation."""
    distillation = partial(kl_distillation, student_temperature=temperature, teacher_temperature=temperature)
    return SubNetworkLoss(loss_weights("sub_sum_to_full" if len(widths) > 1 else "equal", widths), distillation)


def build(widths: tuple[float, ...], depth: int, queue: int) -> MoCoV2:
    """The paper's method."""
    return MoCoV2(SlimmableResNet(depth, 64, widths), queue=queue, combine=combination(widths))


def fused_sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """MoCo v2's optimiser, as `slimclr.build.optimizer` makes it."""
    sgd = torch.optim.SGD(parameters, lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True)
    # Where fp16's first step overflows, the kernel would leave the buffers that it has made uninitialised.
    for parameter in parameters:
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def ours(
    method: Method,
    views: list[Tensor],
    device: torch.device,
    precision: str,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = fused_sgd,
) -> Step:
    """The step as the training loop makes it."""
    place(method, device)
    moving = optimizer(list(method.trainable().parameters()))
    views = [view.to(device, memory_format=torch.channels_last) for view in views]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    labels = torch.zeros(len(views[0]), dtype=torch.long, device=device)

    def step() -> None:
        moving.zero_grad(set_to_none=True)
        with autocast(device, precision):
            method.before_step(0, 0, [views])
            output = method(views, labels, 0.0)
        scaler.scale(output.loss).backward()
        scaler.unscale_(moving)
        norm = nn.utils.get_total_norm([p.grad for p in method.trainable().parameters() if p.grad is not None])
        method.after_step()
        if device.type == "cpu":
            assert norm.isfinite()
        scaler.step(moving)
        scaler.update()

    return step


def plain(method: MoCoV2, views: list[Tensor], device: torch.device, precision: str) -> Step:
    """The same step, one tensor at a time."""
    method.to(device)
    sgd = torch.optim.SGD(method.trainable().parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, foreach=False)
    images, others = (view.to(device) for view in views)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    targets = torch.zeros(len(images), dtype=torch.long, device=device)

    def step() -> None:
        sgd.zero_grad()
        pairs = zip(method.key_encoder.parameters(), method.query_encoder.parameters(), strict=True)
        for average, parameter in pairs:
            average.data = average.data * 0.999 + parameter.data * 0.001
        with autocast(device, precision):
            with torch.no_grad():
                key = method.key_encoder(others).float()
            losses, logits = {}, {}
            for width in method.widths:
                query = method.query_encoder(images, width).float()
                positive = torch.einsum("nc,nc->n", query, key)[:, None]
                negative = torch.einsum("nc,ck->nk", query, method.queue.clone())
                logits[width] = torch.cat([positive, negative], dim=1)
                losses[width] = F.cross_entropy(logits[width] / method.temperature, targets)
            loss = method.combine(losses, logits, targets).loss
        scaler.scale(loss).backward()
        method.queue[:, : len(key)] = key.T
        scaler.step(sgd)
        scaler.update()
        loss.item()

    return step


class Direct(nn.Module):
    """torchvision's ResNet-50 with MoCo v2's head."""

    def __init__(self, depth: int):
        super().__init__()
        self.net = {14: torchvision.models.resnet18, 50: torchvision.models.resnet50}[depth](num_classes=128)
        features = self.net.fc.in_features
        self.net.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 128))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, 128)."""
        return F.normalize(self.net(images), dim=1)


def torchvision_step(depth: int, queue: int, views: list[Tensor], device: torch.device, precision: str) -> Step:
    """MoCo v2 of one width, written directly, in the same memory format and with the same fused parts."""
    query = Direct(depth).to(device, memory_format=torch.channels_last)
    key = copy.deepcopy(query).requires_grad_(False)
    sgd = torch.optim.SGD(query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True)
    images, others = (view.to(device, memory_format=torch.channels_last) for view in views)
    bank = F.normalize(torch.randn(128, queue, device=device), dim=0)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    targets = torch.zeros(len(images), dtype=torch.long, device=device)

    def step() -> None:
        sgd.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(key.parameters()), list(query.parameters()), 0.001)
        with autocast(device, precision):
            with torch.no_grad():
                keys = key(others)
            rows = query(images)
            logits = torch.cat([(rows * keys).sum(1, keepdim=True), rows @ bank], dim=1).float()
            loss = F.cross_entropy(logits / 0.2, targets)
        scaler.scale(loss).backward()
        bank[:, : len(keys)] = keys.T
        scaler.step(sgd)
        scaler.update()

    return step


def checkpoint_times(method: MoCoV2, repeats: int) -> dict[str, float]:
    """Seconds that training stops to save the state of a step, and until it is on the disk; MB of it."""
    parameters = list(method.trainable().parameters())
    sgd = torch.optim.SGD(parameters, lr=0.03, momentum=0.9)
    for parameter in parameters:
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    state = {"epoch": 0, "method": method.state_dict(), "optimizer": sgd.state_dict()}
    stops, written = [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = CheckpointManager(Path(folder))
        for number in range(repeats):
            start = time.perf_counter()
            checkpoints.save({**state, "step": number})
            stops.append(time.perf_counter() - start)
            checkpoints.wait()
            written.append(time.perf_counter() - start)
        size = max(path.stat().st_size for path in Path(folder).glob("*.pt"))
    return {
        "mb": round(size / 1e6),
        "training_stops_s": round(statistics.median(stops), 3),
        "on_the_disk_after_s": round(statistics.median(written), 3),
    }


def matrix_rate(device: torch.device, precision: str) -> float:
    """Multiply-adds per second of a large matrix product."""
    size, dtype = (1024 if device.type == "cpu" else 8192), AMP.get(precision, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return size**3 / statistics.median(timed(lambda: a @ b, device) for _ in range(7))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with a small network")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    options = parser.parse_args()
    depth, queue = (14, 1024) if options.quick else (50, 65536)
    size, batch, repeats = (32, 4, 1) if options.quick else (options.image_size, options.batch, options.repeats)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    views = [torch.randn(batch, 3, size, size) for _ in range(2)]
    steps = {
        "ours": ours(build(WIDTHS, depth, queue), views, device, options.precision),
        "plain": plain(build(WIDTHS, depth, queue), views, device, options.precision),
        "ours_one_width": ours(build((1.0,), depth, queue), views, device, options.precision),
        "torchvision": torchvision_step(depth, queue, views, device, options.precision),
    }
    for step in steps.values():
        for _ in range(2 if device.type == "cpu" else 10):
            step()
    rounds: list[dict[str, float]] = []
    for index in range(repeats):
        names = list(steps)[:: 1 if index % 2 == 0 else -1]
        rounds.append({name: timed(steps[name], device) for name in names})
    backbone = SlimmableResNet(depth, 64, WIDTHS)
    macs = {width: count_macs(backbone, width, image_size=size) for width in WIDTHS}
    # A query is computed forwards and backwards, which is three times its multiply-adds, a key only forwards.
    four = batch * (3 * sum(macs.values()) + macs[1.0])
    one = batch * 4 * macs[1.0]

    def ratio(over: str, under: str) -> float:
        return round(statistics.median(values[over] / values[under] for values in rounds), 3)

    seconds = {name: statistics.median(values[name] for values in rounds) for name in steps}
    rate = matrix_rate(device, options.precision)
    saved = build(WIDTHS, depth, queue)
    place(saved, device)
    result = {
        "machine": machine(device),
        "network": f"ResNet-{depth}",
        "widths": WIDTHS,
        "image_size": size,
        "batch": batch,
        "precision": options.precision,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "images_per_s": round(batch / seconds["ours"], 1),
        "faster_than_plain": ratio("plain", "ours"),
        "one_width_over_torchvision": ratio("ours_one_width", "torchvision"),
        "four_widths_over_one": ratio("ours", "ours_one_width"),
        "four_widths_over_one_by_multiply_adds": round(four / one, 3),
        "multiply_adds_per_step": four,
        "share_of_matrix_rate": round(four / seconds["ours"] / rate, 3),
        "checkpoint": checkpoint_times(saved, repeats),
        "rounds": [{name: round(value, 4) for name, value in values.items()} for values in rounds],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
