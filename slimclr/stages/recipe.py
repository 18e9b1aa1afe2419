"""Shows what a recipe becomes on a number of GPUs."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from slimclr.build.batch import plan_batch
from slimclr.build.gpu_memory import memory_verdicts
from slimclr.config import RELEASED, Pretrain, Recipe

IMAGENET_TRAIN = 1_281_167

_FIGURES = Path(__file__).parents[2] / "benchmarks/results"


def show_recipe(recipe: Recipe, *, run: str, gpus: int, images: int = IMAGENET_TRAIN, figures: Path = _FIGURES) -> None:
    """Print the batch, learning rate and steps that follow from a number of GPUs, and whether the paper's hold.

    Args:
        recipe: The run's recipe.
        run: Its name.
        gpus: GPUs that train.
        images: Training images.
        figures: Folder of what was measured on GPUs.
    """
    console = Console(highlight=False)
    table = Table(title=f"{run} on {gpus} GPU{'s' if gpus != 1 else ''}", show_header=False, min_width=60)
    deviations: list[str] = [] if recipe.paper else ["it is not a run of the paper"]
    if recipe.pretrain is None:
        assert recipe.checkpoint is not None
        table.add_row("weights", f"imported from paths.raw/{RELEASED}/{recipe.checkpoint.file}")
        deviations.append("its weights are trained elsewhere")
    else:
        deviations += _training(recipe.pretrain, table, gpus=gpus, images=images, figures=figures)
    console.print(table)
    verdict = f"no, because {'; '.join(deviations)}" if deviations else "yes"
    console.print(f"comparable with the paper: {verdict}", soft_wrap=True)


def _training(pretrain: Pretrain, table: Table, *, gpus: int, images: int, figures: Path) -> list[str]:
    """Add the rows of a pre-training; gives what differs from the paper."""
    table.add_row("method", pretrain.method.name)
    table.add_row("network", f"{pretrain.backbone.arch}, widths {', '.join(map(str, pretrain.backbone.widths))}")
    if pretrain.optimizer is None:
        table.add_row("training", "none: random weights")
        return []
    plan = plan_batch(pretrain, gpus)
    steps = images // pretrain.batch
    table.add_row("total batch", str(pretrain.batch))
    table.add_row("batch per GPU", str(plan.per_gpu))
    table.add_row("accumulated batches per step", str(plan.accumulation))
    table.add_row("batch norm sees", str(plan.per_gpu if pretrain.bn_batch else plan.per_gpu * gpus) + " images")
    table.add_row(
        "optimiser",
        f"{pretrain.optimizer.name}, learning rate {pretrain.optimizer.lr:g}, "
        f"momentum {pretrain.optimizer.momentum:g}, weight decay {pretrain.optimizer.weight_decay:g}",
    )
    table.add_row("learning rate from slow start on", f"{pretrain.schedule.slim_start_lr or pretrain.optimizer.lr:g}")
    table.add_row("schedule", f"{pretrain.schedule.name}, warm-up {pretrain.schedule.warmup:g} of all steps")
    table.add_row("epochs", f"{pretrain.epochs}, widths below 1.0 from epoch {pretrain.slow_start_epoch} on")
    table.add_row("steps", f"{pretrain.epochs * steps:,} ({steps:,} per epoch of {images:,} images)")
    table.add_row("precision", pretrain.precision)
    for verdict in memory_verdicts(pretrain, plan, figures):
        table.add_row("memory of a GPU", verdict)
    return list(plan.deviations)
