"""Mask R-CNN on COCO with the backbone of one run."""

import time
from pathlib import Path

from slimclr.config import Detection, dump, fingerprint
from slimclr.detection.transfer import run_transfer
from slimclr.files import sha256, write_json
from slimclr.provenance import provenance


def transfer(
    recipe: Detection, *, run: str, seed: int, weights: Path, coco: Path, out: Path, checkpoints: Path
) -> None:
    """Fine-tune on COCO with all widths trained jointly, evaluate each, write metrics.json.

    Args:
        recipe: The detection recipe.
        run: The run's name.
        seed: Seed of heads, order and augmentation.
        weights: `weights.safetensors` of the run.
        coco: Folder with annotations/, train2017/ and val2017/.
        out: `metrics.json`.
        checkpoints: Folder of this transfer's rolling checkpoints.
    """
    started = time.time()
    digest = sha256(weights)
    folder = checkpoints / fingerprint(recipe)[:12] / f"seed{seed}-{digest[:12]}"
    widths = run_transfer(weights=weights, coco=coco, checkpoints=folder, seed=seed, **dump(recipe))
    if widths is None:
        return
    write_json(
        out,
        {
            "schema": 1,
            "run": run,
            "stage": "transfer",
            "seed": seed,
            "epochs": recipe.epochs,
            "widths": widths,
            "weights_sha256": digest,
            "recipe_sha256": fingerprint(recipe),
            "provenance": provenance(started),
        },
    )
