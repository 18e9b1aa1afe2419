"""Pre-training of one run."""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from slimclr.brought import refuse_to_replace
from slimclr.config import Distillation, Optimizer, Pretrain, Probe, Schedule, dump, fingerprint
from slimclr.data import open_images
from slimclr.data.loaders import training_loader
from slimclr.engine.distributed import Processes, processes
from slimclr.engine.folder import finish, folder_of, identity, open_folder
from slimclr.engine.loop import Trainer
from slimclr.engine.plan import plan_batch
from slimclr.engine.records import copy_records
from slimclr.errors import UserError
from slimclr.files import atomic_path, sha256, write_json, write_text
from slimclr.losses import (
    adaptive_temperature_distillation,
    decoupled_distillation,
    kl_distillation,
    loss_weights,
    mse_distillation,
)
from slimclr.methods import METHODS, Method, SubNetworkLoss
from slimclr.nn import SlimmableResNet, build_backbone
from slimclr.nn.compiled import compile_widths
from slimclr.nn.counts import count_macs, count_parameters
from slimclr.nn.sync import synchronise_batch_norm
from slimclr.nn.weights import BACKBONE, save_weights
from slimclr.optim import LARS, learning_rate
from slimclr.probe.knn import KNNMonitor
from slimclr.provenance import provenance

_NOT_OF_THE_PAPER = "it is not a run of the paper"


def pretrain(
    recipe: Pretrain,
    *,
    run: str,
    seed: int,
    data: Path | None,
    out: Path,
    checkpoints: Path,
    gpus: int,
    paper: bool,
    resume: Path | None = None,
) -> None:
    """Train one run and write weights.safetensors, config.yaml, metrics.jsonl and metrics.json into `out`.

    Args:
        recipe: What to train.
        run: Its name.
        seed: Seed of weights, order and views.
        data: Training images, an LMDB or a folder; not needed for a random backbone.
        out: Folder of the results.
        checkpoints: Folder of this run's rolling checkpoints.
        gpus: GPUs to use; 0 is the CPU.
        paper: The recipe is the paper's.
        resume: Checkpoint to go on from; None takes the newest of this recipe, or begins.

    Raises:
        UserError: `out` holds weights that pre-training did not make.
        Preempted: SIGTERM or SIGUSR1 asked to stop; run it again.
    """
    started = time.time()
    refuse_to_replace(out, made_by="pretrain")
    part = f"seed{seed}"
    folder = folder_of(checkpoints, recipe, part)
    torch.manual_seed(seed)
    backbone = _backbone(recipe)
    if recipe.method.name == "random":
        exported = {f"{BACKBONE}{name}": tensor for name, tensor in backbone.state_dict().items()}
        deviations: list[str] = [] if paper else [_NOT_OF_THE_PAPER]
        steps = 0
        (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
        write_text(folder / "metrics.jsonl", "")
        main = True
    else:
        set_precision(recipe)
        with (
            processes(gpus, folder / "errors") as where,
            open_folder(checkpoints, recipe, part=part, main=where.main),
        ):
            trainer, deviations = _trainer(recipe, backbone, run, seed, data, folder, where, resume)
            if not paper:
                deviations.insert(0, _NOT_OF_THE_PAPER)
            if where.main and deviations:
                print(f"pretrain {run}: not comparable with the paper: {'; '.join(deviations)}", flush=True)
            trainer.train()
            exported, steps, main = trainer.method.exported(), trainer.step, where.main
            if main:
                finish(folder, recipe)
    if main:
        _write(recipe, backbone, exported, run, seed, steps, deviations, folder, out, started)


def _trainer(
    recipe: Pretrain,
    backbone: SlimmableResNet,
    run: str,
    seed: int,
    data: Path | None,
    folder: Path,
    where: Processes,
    resume: Path | None,
) -> tuple[Trainer, list[str]]:
    plan = plan_batch(recipe, where.world)
    if data is None:
        raise UserError(f"{run}: training needs images; name an LMDB or a folder with --data")
    assert recipe.optimizer is not None, "the config refuses a trained method without an optimiser"
    images = open_images(data)
    method = build_method(recipe, backbone, classes=len(images.classes), seed=seed)
    if where.world > 1 and recipe.batch_norm == "synchronised":
        synchronise_batch_norm(method, where.device)
    prepare(method, backbone, recipe, where.device)
    loader = training_loader(
        images,
        recipe.views,
        image_size=recipe.image_size,
        widths=len(backbone.widths),
        total_batch=recipe.batch,
        batch=plan.per_gpu,
        seed=seed,
        workers=recipe.workers,
        rank=where.rank,
        world=where.world,
        backend=recipe.loader,
        device=where.device,
    )
    steps_per_epoch = len(loader) // plan.accumulation
    monitor = None
    if recipe.knn:
        monitor = KNNMonitor(recipe.knn, backbone, images, image_size=recipe.image_size, seed=seed, where=where)
    trainer = Trainer(
        method=method,
        optimizer=build_optimizer(recipe.optimizer, method.trainable()),
        schedule=build_schedule(
            recipe.schedule,
            lr=recipe.optimizer.lr,
            epochs=recipe.epochs,
            steps_per_epoch=steps_per_epoch,
            slow_start_epoch=recipe.slow_start_epoch,
        ),
        loader=loader,
        epochs=recipe.epochs,
        where=where,
        folder=folder,
        accumulation=plan.accumulation,
        precision=recipe.precision,
        grad_clip=recipe.optimizer.grad_clip,
        log_every=recipe.log_every,
        gradients_every=recipe.gradients_every,
        checkpoint_minutes=recipe.checkpoint_minutes,
        keep_every_epochs=recipe.keep_every_epochs,
        monitor=monitor,
        monitor_every=recipe.knn.every if recipe.knn else 1,
        resume=resume,
        identity=identity("pretrain", recipe, f"seed{seed}"),
        name=f"pretrain {run}",
    )
    return trainer, list(plan.deviations)


def _backbone(recipe: Pretrain) -> SlimmableResNet:
    shape = recipe.backbone
    return build_backbone(**shape.model_dump())


def build_method(recipe: Pretrain, backbone: SlimmableResNet, *, classes: int, seed: int = 0) -> Method:
    """The method of a recipe around its backbone.

    Args:
        recipe: What to train.
        backbone: Its network.
        classes: Number of classes, for supervised training.
        seed: Seed of what the method draws while it trains.
    """
    method = recipe.method
    parts: dict[str, Any] = method.model_dump(exclude={"name"})
    if method.name == "mocov2":
        parts["seed"] = seed
    if method.name == "mocov3":
        parts["epochs"] = recipe.epochs
    if method.name == "supervised":
        parts["classes"] = classes
    return METHODS[method.name](
        backbone,
        slow_start_epoch=recipe.slow_start_epoch,
        combine=build_combination(recipe, backbone.widths),
        **parts,
    )


def set_precision(recipe: Pretrain | Probe) -> None:
    """Let a GPU choose its fastest kernels, with TF32 where the recipe allows it."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = recipe.tf32
    torch.set_float32_matmul_precision("high" if recipe.tf32 else "highest")


def prepare(method: nn.Module, backbone: SlimmableResNet, recipe: Pretrain, device: torch.device) -> None:
    """Move a method to where it is trained, with the recipe's ways to save memory and time."""
    to_device(method, device)
    backbone.checkpointing = recipe.activation_checkpointing
    if recipe.compile:
        for module in method.modules():
            if isinstance(module, SlimmableResNet):
                compile_widths(module)


def to_device(module: nn.Module, device: torch.device) -> None:
    """Move a network, its convolutions in the memory format that they are fastest in."""
    module.to(device)
    for network in module.modules():
        if isinstance(network, SlimmableResNet):
            network.set_memory_formats(device)
    for parameter in module.parameters():
        if parameter.dim() == 4 and parameter.requires_grad:
            parameter.register_hook(partial(_with_strides, parameter.stride()))


def _with_strides(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    """A convolution's gradient as its weight lies in memory, which DistributedDataParallel wants, or it warns."""
    if gradient.stride() == strides:
        return gradient
    last = strides[1] == 1
    gradient = gradient.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    # A 1x1 kernel's strides have several names for the same places.
    return gradient.as_strided(gradient.shape, strides)


def build_combination(recipe: Pretrain, widths: Sequence[float]) -> SubNetworkLoss:
    """Re-weighting and distillation of a recipe."""
    weights, settings = loss_weights(recipe.loss_weights, widths), recipe.distillation
    if settings is None:
        return SubNetworkLoss(weights)
    return SubNetworkLoss(
        weights, build_distillation(settings), settings.share, on=settings.on, full_distill=settings.full_distill
    )


def build_distillation(settings: Distillation) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(student (n, c), teacher (n, c), right columns (n,)) -> loss of a recipe."""
    kinds: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "kl": partial(
            kl_distillation,
            student_temperature=settings.student_temperature,
            teacher_temperature=settings.teacher_temperature,
        ),
        "mse": mse_distillation,
        "dkd": decoupled_distillation,
        "atkd": adaptive_temperature_distillation,
    }
    return kinds[settings.kind]


def build_optimizer(settings: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a recipe; weight decay applies to every parameter, as in the reference (LARS: to matrices)."""
    options: dict[str, Any] = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    if settings.name == "lars":
        return LARS(module.parameters(), trust=settings.trust, **options)
    sgd = torch.optim.SGD(module.parameters(), fused=True, **options)
    if settings.momentum:
        # The fused kernel wants all buffers or none, and sub-networks begin later than the full network.
        for parameter in module.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def build_schedule(
    settings: Schedule, *, lr: float, epochs: int, steps_per_epoch: int, slow_start_epoch: int = 0
) -> partial[float]:
    """Step -> learning rate of a recipe."""
    steps = epochs * steps_per_epoch
    return partial(
        learning_rate,
        base=lr,
        steps=steps,
        warmup_steps=settings.warmup * steps,
        milestones=[epoch * steps_per_epoch for epoch in settings.milestones],
        gamma=settings.gamma,
        power=settings.power if settings.name == "polynomial" else None,
        slim_start_step=slow_start_epoch * steps_per_epoch,
        slim_start_lr=settings.slim_start_lr,
    )


def _write(
    recipe: Pretrain,
    backbone: SlimmableResNet,
    exported: dict[str, torch.Tensor],
    run: str,
    seed: int,
    steps: int,
    deviations: list[str],
    folder: Path,
    out: Path,
    started: float,
) -> None:
    identity = {"schema": 1, "run": run, "stage": "pretrain", "seed": seed, "method": recipe.method.name}
    save_weights(
        out / "weights.safetensors", exported, identity | backbone.shape | {"recipe_sha256": fingerprint(recipe)}
    )
    write_text(out / "config.yaml", yaml.safe_dump(dump(recipe), sort_keys=False))
    with atomic_path(out / "metrics.jsonl") as part:
        part.write_bytes((folder / "metrics.jsonl").read_bytes())
    copy_records(folder, out)
    last = _last_widths(out / "metrics.jsonl")
    widths = {
        str(width): {
            "params": count_parameters(backbone, width),
            "macs": count_macs(backbone, width, image_size=recipe.image_size),
            **last.get(str(width), {}),
        }
        for width in backbone.widths
    }
    write_json(
        out / "metrics.json",
        identity
        | {
            "arch": backbone.arch,
            "image_size": recipe.image_size,
            "epochs": recipe.epochs,
            "steps": steps,
            "comparable": not deviations,
            "comparable_because": deviations,
            "widths": widths,
            "weights_sha256": sha256(out / "weights.safetensors"),
            "recipe_sha256": fingerprint(recipe),
            "provenance": provenance(started),
        },
    )


def _last_widths(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line["widths"] for line in reversed(lines) if "widths" in line), {})
