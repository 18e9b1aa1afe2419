"""The trainer of a recipe: method, loader, optimiser and schedule, put into the training loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slimclr.build.optimizer import build_optimizer
from slimclr.build.schedule import build_schedule
from slimclr.config import FineTune, Pretrain, Probe
from slimclr.data.loading.base import Loader
from slimclr.engine.distributed import Process
from slimclr.engine.loop import Stateful, Trainer
from slimclr.methods import Method
from slimclr.methods.finetune import FineTuning
from slimclr.probe.grid import GridProbe


def build_trainer(
    recipe: Pretrain | Probe | FineTune,
    method: Method,
    loader: Loader,
    *,
    process: Process,
    folder: Path,
    name: str,
    identity: dict[str, Any],
    accumulation: int = 1,
    monitors: Sequence[tuple[int, Callable[[], dict[str, Any]]]] = (),
    online: Stateful | None = None,
    resume: Path | None = None,
) -> Trainer:
    """The trainer of a pre-training, of linear probes or of fine-tuning.

    Args:
        recipe: What is trained; it has an optimiser.
        method: The method, on this process's device.
        loader: This process's batches.
        process: This process.
        folder: Checkpoints and records.
        name: What progress calls it.
        identity: What its checkpoints belong to, see `slimclr.engine.run_folder.identity`.
        accumulation: Batches per optimiser step.
        monitors: Give values for the records every so many epochs, see `slimclr.build.monitor`.
        online: What learns beside the method.
        resume: Checkpoint to resume from, instead of the newest.
    """
    settings = recipe.optimizer
    assert settings is not None, "the config refuses a trained method without an optimiser"
    of_stage, head, head_lr = (_of_pretraining(recipe) if isinstance(recipe, Pretrain) else {}), None, None
    groups = method.parameter_groups() if isinstance(method, GridProbe) else None
    if isinstance(recipe, FineTune) and isinstance(method, FineTuning):
        of_stage, head, head_lr = {"precision": recipe.precision}, method.encoder.head, recipe.head_lr
    return Trainer(
        method=method,
        optimizer=build_optimizer(settings, method.trainable(), head=head, head_lr=head_lr, groups=groups),
        schedule=build_schedule(
            recipe.schedule,
            lr=settings.lr,
            epochs=recipe.epochs,
            steps_per_epoch=len(loader) // accumulation,
            slow_start_epoch=recipe.slow_start_epoch if isinstance(recipe, Pretrain) else 0,
        ),
        loader=loader,
        epochs=recipe.epochs,
        process=process,
        folder=folder,
        accumulation=accumulation,
        grad_clip=settings.grad_clip,
        log_every=recipe.log_every,
        checkpoint_minutes=recipe.checkpoint_minutes,
        monitors=monitors,
        online=online,
        resume=resume,
        identity=identity,
        name=name,
        **of_stage,
    )


def _of_pretraining(recipe: Pretrain) -> dict[str, Any]:
    """What only a pre-training's recipe says."""
    return {
        "precision": recipe.precision,
        "gradients_every": recipe.gradients_every,
        "keep_every_epochs": recipe.keep_every_epochs,
    }
