"""Two training steps of every method; alone with the whole batch, or under torchrun with a process's share of it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from slimclr.build.batch import plan_batch
from slimclr.build.method import build_method
from slimclr.build.optimizer import build_optimizer
from slimclr.config import Pretrain
from slimclr.engine.distributed import Process, process_group
from slimclr.engine.loop import Trainer
from slimclr.methods.gather import gather, rank, world_size
from slimclr.nn import build_backbone
from slimclr.nn.sync import synchronise_batch_norm

BATCH = 16  # over all processes
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
    "mocov2, two groups": {"method": {"name": "mocov2", "dim": 16, "queue": 32}, "bn_batch": BATCH // 2},
    "mocov2, four groups": {"method": {"name": "mocov2", "dim": 16, "queue": 32}, "bn_batch": BATCH // 4},
    "mocov3": {"method": {"name": "mocov3", "dim": 16, "hidden": 32}, "views": "mocov3"} | SYNCHRONISED,
    "simclr": {"method": {"name": "simclr", "dim": 16}, "views": "simclr"} | SYNCHRONISED,
    "supervised": {"method": {"name": "supervised"}, "views": "slim"} | SYNCHRONISED,
}
REFERENCE = {"method": {"name": "simclr", "dim": 16, "gradient_scale": "reference"}, "views": "simclr"} | SYNCHRONISED


def run(name: str) -> dict[str, torch.Tensor]:
    """What two steps leave: losses, gradients, weights, queue, running statistics."""
    process = Process(rank(), world_size(), torch.device("cpu"))
    recipe = Pretrain.model_validate(COMMON | (REFERENCE if name == "simclr_reference" else CASES[name]))
    torch.manual_seed(0)
    method = build_method(recipe, build_backbone(**recipe.backbone.model_dump()), classes=3, seed=5).double()
    if process.world_size > 1 and recipe.batch_norm == "synchronised":
        synchronise_batch_norm(method, process.device)
    losses: list[torch.Tensor] = []
    method.register_forward_hook(lambda _, inputs, output: losses.append(output.loss.detach()))
    plan = plan_batch(recipe, process.world_size)
    batches = list(_batches(plan.per_gpu, process))
    trainer = Trainer(
        method=method,
        optimizer=build_optimizer(recipe.optimizer, method.trainable()),
        schedule=lambda step: 0.1,
        loader=batches,
        epochs=2,
        process=process,
        folder=Path(),
        accumulation=plan.accumulation,
    )
    coming, left = iter(batches), {}
    for step, epoch in enumerate((0.5, 1.5)):  # before and after slow start
        method.require_gradients(epoch)
        model = DistributedDataParallel(method, broadcast_buffers=False) if process.world_size > 1 else method
        trainer.train_step(epoch, model, coming)
        trainer.step += 1
        left[f"{step}/loss"] = gather(torch.stack(losses).mean().view(1)).mean()
        losses.clear()
        for key, parameter in method.trainable().named_parameters():
            if parameter.grad is not None:
                left[f"{step}/gradient/{key}"] = parameter.grad.clone()
        left |= {f"{step}/weight/{key}": p.detach().clone() for key, p in method.named_parameters()}
        left |= {f"{step}/buffer/{key}": b.to(torch.float64, copy=True) for key, b in method.named_buffers()}
    return left


def _batches(batch: int, process: Process) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """Two steps' images, dealt to processes as the sampler deals them."""
    generator = torch.Generator().manual_seed(1)
    share = BATCH // process.world_size
    for _ in range(2):
        views = [torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2)]
        labels = torch.randint(3, (BATCH,), generator=generator)
        for at in range(process.rank * share, (process.rank + 1) * share, batch):
            yield [view[at : at + batch] for view in views], labels[at : at + batch]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with process_group(0) as process:
        for name in (*CASES, "simclr_reference"):
            left = run(name)
            if process.main:
                torch.save(left, folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
