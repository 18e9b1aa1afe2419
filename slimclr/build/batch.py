"""How a recipe's total batch is split over the available GPUs. Imports no torch, so `slimclr recipe` is quick."""

from dataclasses import dataclass

from slimclr.config import NEGATIVES_IN_BATCH, STARVED, Pretrain
from slimclr.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """How one optimiser step is computed.

    Attributes:
        per_gpu: Images of one forward pass on one GPU.
        accumulation: Forward passes per optimiser step.
        deviations: Why the result is not comparable with the recipe on its own GPUs; empty when it is.
    """

    per_gpu: int
    accumulation: int
    deviations: tuple[str, ...]


def plan_batch(recipe: Pretrain, gpus: int) -> BatchPlan:
    """Split the total batch over GPUs and accumulated batches; the learning rate belongs to the total batch.

    Args:
        recipe: The run's pre-training.
        gpus: Processes that train, one per GPU; a CPU counts as one.

    Raises:
        UserError: The batch does not divide, batch norm would see a single value, or accumulation would change the
            method and is not allowed.
    """
    share, rest = divmod(recipe.batch, gpus)
    if rest:
        raise UserError(
            f"pretrain.batch: {recipe.batch} images do not divide among {gpus} GPUs; use a divisor of the batch"
        )
    fits = min(share, recipe.max_batch_per_gpu or share)
    # Per-GPU batch norm defines the size of a forward pass; otherwise the largest that fits.
    wanted = recipe.bn_batch or share
    per_gpu = min(wanted, fits)
    while share % per_gpu:
        per_gpu -= 1
    accumulation = share // per_gpu
    _check_batch_norm(recipe, per_gpu, gpus)
    method = recipe.method.name
    deviations = []
    if recipe.bn_batch and per_gpu != recipe.bn_batch:
        deviations.append(f"batch norm sees {per_gpu} images, the recipe says {recipe.bn_batch}")
    alone = method == "mocov2" and gpus * accumulation == 1
    if alone:
        deviations.append("batch norm sees a whole step at once, so MoCo v2's keys are not shuffled")
    if accumulation > 1 and recipe.batch_norm == "synchronised":
        deviations.append(f"synchronised batch norm sees {per_gpu * gpus} of {recipe.batch} images")
    if accumulation > 1 and method in NEGATIVES_IN_BATCH:
        deviations.append(f"negatives come from {per_gpu * gpus} of {recipe.batch} images")
    if alone and not recipe.allow_not_comparable:
        raise UserError(
            f"pretrain.bn_batch: batch norm sees all {recipe.batch} images of a step at once and can give away which "
            f"key belongs to a query (MoCo, section 3.3); set bn_batch to {recipe.batch // 2} or less: keys are then "
            "shuffled over several batches. Or set pretrain.allow_not_comparable: true"
        )
    changed = accumulation > 1 and (recipe.batch_norm == "synchronised" or method in NEGATIVES_IN_BATCH)
    if changed and not recipe.allow_not_comparable:
        raise UserError(
            f"pretrain.max_batch_per_gpu: {recipe.max_batch_per_gpu} on {gpus} GPUs needs {accumulation} accumulated "
            f"batches, which changes the method ({'; '.join(deviations)}); use {-(-recipe.batch // fits)} GPUs or set "
            "pretrain.allow_not_comparable: true"
        )
    return BatchPlan(per_gpu, accumulation, tuple(deviations))


def _check_batch_norm(recipe: Pretrain, per_gpu: int, gpus: int) -> None:
    if recipe.starves_batch_norm(per_gpu * (gpus if recipe.batch_norm == "synchronised" else 1)):
        raise UserError(
            f"pretrain.batch: {recipe.batch} images on {gpus} GPUs are {per_gpu} in a forward pass: {STARVED}; use "
            "fewer GPUs, a larger batch or a larger pretrain.max_batch_per_gpu"
        )
