"""Whether a recipe's batch fits on a GPU, from what was measured on GPUs; where nothing was, it says so."""

import json
from pathlib import Path
from typing import Any

from slimclr.build.batch import BatchPlan
from slimclr.config import MoCoV2, Pretrain
from slimclr.errors import UserError

PATTERN = "gpu-memory-*.json"
"""Files that part `memory` of `make gpu-proof` has written."""
# A recipe's keys by which a measured step is the same one.
_SAME = ("precision", "image_size", "activation_checkpointing")


def memory_verdicts(recipe: Pretrain, plan: BatchPlan, folder: Path) -> list[str]:
    """A line for each GPU on which a step of this recipe was measured, or one that says that none was.

    Args:
        recipe: What is trained.
        plan: Its batches on the GPUs at hand.
        folder: Of the measured figures, `benchmarks/results`.

    Raises:
        UserError: A file of figures cannot be read.
    """
    found = []
    for path in sorted(folder.glob(PATTERN)):
        try:
            figures = json.loads(path.read_text(encoding="utf-8"))
            rows = [row for row in figures["rows"] if _is_same(recipe, row)]
            found += [_verdict(recipe, plan, row, figures["device"], figures["device_gb"]) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}: not what make gpu-proof writes ({told}); move it away or measure again") from None
    return found or [
        "not measured: no GPU's figures of this network are here; slimclr plan --largest-batch tries it on one"
    ]


def _is_same(recipe: Pretrain, row: dict[str, Any]) -> bool:
    """Whether a measured step is the recipe's; other views and compiled steps take other memory."""
    backbone = recipe.backbone
    own = (recipe.method.name, backbone.arch, sorted(backbone.widths))
    if recipe.compile or recipe.views in ("mocov2_diff", "mocov2_sweet"):
        return False
    return (row["method"], row["arch"], sorted(row["widths"])) == own and all(
        row[key] == getattr(recipe, key) for key in _SAME
    )


def _verdict(recipe: Pretrain, plan: BatchPlan, row: dict[str, Any], device: str, device_gb: float) -> str:
    needed = row["gb_beside"] + plan.per_gpu * row["gb_per_image"]
    if isinstance(recipe.method, MoCoV2):
        # The step's other batches wait there: two views of each image and, shuffled, the key's once more, as floats.
        needed += (plan.accumulation - 1) * plan.per_gpu * 3 * 12 * recipe.image_size**2 / 1e9
    verdict = "fits" if needed <= device_gb else "does not fit"
    measured = " and ".join(map(str, row["batches"]))
    return f"{verdict}: {needed:.1f} of {device_gb:.1f} GB of {device} (a line through {measured} images, measured)"
