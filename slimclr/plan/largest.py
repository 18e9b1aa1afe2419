"""The largest batch of a pre-training that fits into memory, and what to set where the recipe's does not."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from slimclr.build.batch import plan_batch
from slimclr.config import MoCoV2, Pretrain, dump, load_config, load_recipe
from slimclr.errors import UserError
from slimclr.machine import gpu_names
from slimclr.plan.measure import Bench, describe_machine
from slimclr.plan.sizes import classes_of

# Nobody trains with more on one GPU.
GREATEST = 16_384


def largest_batch(run: str, *, config: Path, root: Path, gpus: int | None) -> None:
    """Find it by real steps of all widths on a GPU, or out of three small batches on the CPU, and print it.

    Args:
        run: Name of the recipe.
        config: The pipeline's config, which says where recipes lie.
        root: The repository.
        gpus: GPUs that will train; None: those of this machine.

    Raises:
        UserError: There is no such recipe, it trains nothing, or not even the smallest batch fits.
    """
    settings = load_config(config)
    recipe = load_recipe(root / settings.recipes / f"{run}.yaml").pretrain
    if recipe.method.name == "random":
        raise UserError(f"--largest-batch {run}: a random backbone is not trained; name a run that is")
    device, processes = ("cuda" if gpu_names() else "cpu"), max(1, len(gpu_names()) if gpus is None else gpus)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), root)

        def memory(batches: Sequence[int], tried: Pretrain) -> dict[int, float | None]:
            result = bench(
                "memory", recipe=dump(tried), batches=list(batches), classes=classes_of(settings), device=device
            )
            return {int(batch): used for batch, used in result["memory_gb"].items()}

        print(f"{run} on {describe_machine()}, {processes} process{'es' if processes > 1 else ''}")
        for line in advice(recipe, processes, device, memory, limit_gb=available_gb() if device == "cpu" else None):
            print(line)


Memory = Callable[[Sequence[int], Pretrain], dict[int, float | None]]


def advice(recipe: Pretrain, processes: int, device: str, memory: Memory, *, limit_gb: float | None) -> list[str]:
    """What to tell the user.

    Args:
        recipe: What is trained.
        processes: Processes, one per GPU.
        device: cpu or cuda.
        memory: GB of two steps with these images per forward pass and a recipe; None where it does not fit.
        limit_gb: On the CPU, GB that all processes may take together.
    """
    own = plan_batch(recipe, processes).per_gpu
    fits = _fitting(recipe, processes, device, memory, limit_gb)
    best, lines = fits.largest, [fits.told]
    at_own = fits.memory(own)
    told = "does not fit" if at_own is None else f"takes {at_own:,.1f} GB"
    lines.append(f"the recipe's batch, {own} of {recipe.batch} in one forward pass of each process, {told}")
    if own <= best and at_own is not None:
        return lines
    lines.append(_smaller(recipe, processes, best))
    if not recipe.activation_checkpointing:
        other = recipe.model_copy(update={"activation_checkpointing": True})
        again = _fitting(other, processes, device, memory, limit_gb)
        verdict = "fits" if own <= again.largest else f"up to {again.largest} fit"
        lines.append(f"with activation_checkpointing: true, which changes no result: {verdict}")
    return lines


def _smaller(recipe: Pretrain, processes: int, best: int) -> str:
    """Whether accumulating smaller batches is allowed, and what to set for it."""
    smaller = recipe.model_copy(update={"max_batch_per_gpu": best})
    try:
        plan = plan_batch(smaller, processes)
    except UserError as error:
        return f"max_batch_per_gpu: {best} is refused: {error}"
    why = f"; not comparable: {'; '.join(plan.deviations)}" if plan.deviations else ""
    return f"set max_batch_per_gpu: {best}, which accumulates {plan.accumulation} batches of {plan.per_gpu}{why}"


class _Fits:
    """The largest batch that fits, how that is known, and the memory of any batch."""

    def __init__(self, largest: int, told: str, memory: Callable[[int], float | None]):
        self.largest, self.told, self.memory = largest, told, memory


def _fitting(recipe: Pretrain, processes: int, device: str, memory: Memory, limit_gb: float | None) -> _Fits:
    batches = allowed(recipe, processes)
    if device == "cpu":
        assert limit_gb is not None, "on the CPU somebody has to say how much memory there is"
        return _by_line(recipe, batches, memory, limit_gb / processes)
    known: dict[int, float | None] = {}

    def used(batch: int) -> float | None:
        if batch not in known:
            known.update(memory([batch], recipe))
        return known[batch]

    best = bisect_largest(batches, lambda batch: used(batch) is not None)
    if best is None:
        raise UserError(f"not even {batches[0]} images fit on this GPU; use a smaller network or image_size")
    told = f"largest batch of one forward pass that fits on one GPU: {best} ({used(best):,.1f} GB)"
    return _Fits(best, told, used)


def _by_line(recipe: Pretrain, batches: Sequence[int], memory: Memory, limit_gb: float) -> _Fits:
    """A line through the memory of three small batches; a CPU would swap, or kill the process, instead of refusing."""
    small = [batch for batch in batches if batch >= 2][:64]
    chosen = [small[0], small[len(small) // 4], small[len(small) // 2]]
    # A process each, because a process tells only its greatest memory so far.
    points = [(batch, memory([batch], recipe)[batch] or 0.0) for batch in dict.fromkeys(chosen)]
    slope, base = _line(points)
    fitting = [batch for batch in batches if base + slope * batch <= limit_gb]
    if not fitting:
        raise UserError(f"not even one image fits into {limit_gb:,.1f} GB; use a smaller network or image_size")
    measured = ", ".join(f"{batch}: {used:.2f} GB" for batch, used in points)
    told = (
        f"largest batch of one forward pass that fits into {limit_gb:,.1f} GB: {fitting[-1]} "
        f"(extended from a line through measured batches: {measured})"
    )
    # What does not fit is not told as if it did.
    return _Fits(fitting[-1], told, lambda batch: base + slope * batch if base + slope * batch <= limit_gb else None)


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope and value at 0 of the line nearest to the points; memory does not shrink with the batch."""
    count = len(points)
    x, y = sum(p[0] for p in points) / count, sum(p[1] for p in points) / count
    spread = sum((p[0] - x) ** 2 for p in points)
    slope = max(0.0, sum((p[0] - x) * (p[1] - y) for p in points) / spread) if spread else 0.0
    return slope, y - slope * x


def allowed(recipe: Pretrain, processes: int) -> list[int]:
    """Images of one forward pass of a process that the recipe's method can work with, in growing order.

    MoCo v2's queue holds whole total batches, and its batch norm's parts are equal; above 8, multiples of 8, which GPUs
    compute fastest.
    """
    batches = [batch for batch in range(1, GREATEST + 1) if batch < 8 or batch % 8 == 0]
    method = recipe.method
    if not isinstance(method, MoCoV2):
        return batches
    return [batch for batch in batches if batch % method.bn_splits == 0 and method.queue % (batch * processes) == 0]


def bisect_largest(batches: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest batch that fits: each try twice as large as the one before, then between the last two.

    Args:
        batches: Those that are allowed, in growing order; when one fits, all smaller ones do.
        fits: Tries one.
    """
    good, step = -1, 1
    while good + step < len(batches) and fits(batches[good + step]):
        good, step = good + step, 2 * step
    bad = min(good + step, len(batches))
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(batches[middle]) else (good, middle)
    return None if good < 0 else batches[good]


def available_gb(folder: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> float:
    """GB of memory that a new process may take: what is free, or what the control group leaves."""
    values = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    free = int(values["MemAvailable"].split()[0]) * 1024
    limit, used = folder / "memory.max", folder / "memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free / 1e9
