"""The largest batch of a pre-training that fits on a GPU, and what to set where the recipe's does not."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from slimclr.build.batch import plan_batch
from slimclr.config import MoCoV2, Pretrain, load_config, load_recipe
from slimclr.errors import UserError
from slimclr.machine import describe_machine, gpu_names
from slimclr.plan.measure import recorded_gb, shortened
from slimclr.plan.sizes import classes_of
from slimclr.plan.trial import open_trials, photo, spread

# Nobody trains with more on one GPU.
GREATEST = 16_384


def largest_batch(run: str, *, config: Path, root: Path, gpus: int | None) -> None:
    """Find it by short real runs on one GPU, and print it; `gpus` will train, None for those of this machine."""
    settings = load_config(config)
    recipe = load_recipe(root / settings.recipes / f"{run}.yaml").pretrain
    if recipe is None or recipe.method.name == "random":
        kind = "an imported network" if recipe is None else "a random backbone"
        raise UserError(f"--largest-batch {run}: {kind} is not trained; name a run that is")
    if not gpu_names():
        raise UserError(f"--largest-batch {run}: no GPU is here to try it on; run it on a machine that trains")
    processes = max(1, len(gpu_names()) if gpus is None else gpus)
    print(f"{run} on {describe_machine()}, {processes} process{'es' if processes > 1 else ''}")
    with open_trials(Path(settings.paths.work), root) as trials:
        small = [photo(trials.folder / "photo.JPEG", 64, 48)]
        classes = [f"n{number:08d}" for number in range(classes_of(settings))]

        def memory(tried: Pretrain, batch: int) -> float | None:
            out = Path(tempfile.mkdtemp(dir=trials.folder))
            data = spread(small, out / "images", count=2 * batch, classes=classes)
            short = shortened(tried, batch=batch, epochs=1, slow_start_epoch=0, workers=0)
            options = ("--gpus", 1, "--recipe", short, "--data", data, "--out", out, "--checkpoints", out)
            try:
                trials("pretrain", "--name", run, *options)
            except UserError as error:
                if "out of memory" in str(error):
                    return None
                raise
            return recorded_gb(out)

        for line in advice(recipe, processes, memory):
            print(line)


def advice(recipe: Pretrain, processes: int, memory: Callable[[Pretrain, int], float | None]) -> list[str]:
    """What to tell the user; `memory` gives GB of a step with so many images, None where it does not fit."""
    own = best = plan_batch(recipe, processes).per_gpu
    at_own = used = memory(recipe, own)
    while used is None and best % 2 == 0 and _works(recipe, best // 2, processes):
        best //= 2
        used = memory(recipe, best)
    if used is None:
        raise UserError(f"not even {best} images fit on this GPU; use a smaller network or image_size")
    while best >= own and _works(recipe, 2 * best, processes) and (more := memory(recipe, 2 * best)) is not None:
        best, used = 2 * best, more
    told = "does not fit" if at_own is None else f"takes {at_own:,.1f} GB"
    lines = [
        f"largest batch of one forward pass that fits on one GPU: {best} ({used:,.1f} GB)",
        f"the recipe's batch, {own} of {recipe.batch} in one forward pass of each process, {told}",
    ]
    if at_own is not None:
        return lines
    lines.append(f"set max_batch_per_gpu: {best}; then `slimclr recipe` tells what is accumulated, and what it changes")
    if not recipe.activation_checkpointing:
        fits = memory(recipe.model_copy(update={"activation_checkpointing": True}), own) is not None
        lines.append(
            f"with activation_checkpointing: true, which changes no result: {'fits' if fits else 'does not fit either'}"
        )
    return lines


def _works(recipe: Pretrain, batch: int, processes: int) -> bool:
    """Whether the method can: MoCo v2's queue holds whole total batches."""
    method = recipe.method
    if isinstance(method, MoCoV2) and method.queue % (batch * processes):
        return False
    return batch <= GREATEST
