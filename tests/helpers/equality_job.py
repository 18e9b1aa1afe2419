"""Two training steps of every method; alone with the whole batch, or under torchrun with a process's share of it."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from slimclr.build.method import build_method
from slimclr.build.optimizer import build_optimizer
from slimclr.config import Pretrain
from slimclr.engine.distributed import process_group
from slimclr.nn import build_backbone
from slimclr.nn.sync import synchronise_batch_norm

BATCH = 8  # over all processes
COMMON = {
    "backbone": {"depth": 14, "base_width": 8, "widths": [1.0, 0.5], "zero_init_residual": False},
    "epochs": 2,
    "slow_start_epoch": 1,
    "batch": BATCH,
    "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
    "distillation": {"teacher_temperature": 2.0, "student_temperature": 2.0},
    "loss_weights": "sub_sum_to_full",
}
SYNCHRONISED = {"batch_norm": "synchronised"}
CASES = {
    "mocov2": {"method": {"name": "mocov2", "dim": 16, "queue": 16, "bn_splits": 2}, "bn_batch": BATCH // 2},
    "mocov3": {"method": {"name": "mocov3", "dim": 16, "hidden": 32}, "views": "mocov3"} | SYNCHRONISED,
    "simclr": {"method": {"name": "simclr", "dim": 16}, "views": "simclr"} | SYNCHRONISED,
    "supervised": {"method": {"name": "supervised"}, "views": "slim"} | SYNCHRONISED,
}
REFERENCE = {"method": {"name": "simclr", "dim": 16, "gradient_scale": "reference"}, "views": "simclr"} | SYNCHRONISED


def run(name: str) -> dict[str, torch.Tensor]:
    """What two steps leave: losses, gradients, weights, queue."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    case = REFERENCE if name == "simclr_reference" else CASES[name]
    if name == "mocov2" and world > 1:  # the processes themselves split the batch
        case = case | {"method": {**case["method"], "bn_splits": 1}}
    recipe = Pretrain.model_validate(COMMON | case)
    torch.manual_seed(0)
    method = build_method(recipe, build_backbone(**recipe.backbone.model_dump()), classes=3, seed=5).double()
    if world > 1 and recipe.batch_norm == "synchronised":
        synchronise_batch_norm(method, torch.device("cpu"))
    optimizer = build_optimizer(recipe.optimizer, method.trainable())
    left: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for step, epoch in enumerate((0.5, 1.5)):  # before and after slow start
        views = [torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2)]
        labels = torch.randint(3, (BATCH,), generator=generator)
        share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        method.require_gradients(epoch)
        parallel = DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
        optimizer.zero_grad(set_to_none=True)
        method.before_step(epoch)
        loss = parallel([view[share] for view in views], labels[share], epoch, step).loss
        loss.backward()
        method.after_step()
        mean = loss.detach() / world
        if world > 1:
            dist.all_reduce(mean)
        left[f"{step}/loss"] = mean
        for key, parameter in method.trainable().named_parameters():
            if parameter.grad is not None:
                left[f"{step}/gradient/{key}"] = parameter.grad.clone()
        optimizer.step()
        left |= {f"{step}/weight/{key}": p.detach().clone() for key, p in method.named_parameters()}
        if name == "mocov2":
            left |= {f"{step}/queue": method.queue.clone(), f"{step}/pointer": method.queue_pointer.double().clone()}
    return left


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with process_group(0) as process:
        for name in (*CASES, "simclr_reference"):
            left = run(name)
            if process.main:
                torch.save(left, folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
