"""Mask R-CNN on COCO with the backbone of one run."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from slimclr import results
from slimclr.config import Detection, dump, fingerprint
from slimclr.detection.content import coco_digests
from slimclr.detection.transfer import newest_checkpoint, run_transfer
from slimclr.files import sha256, write_json


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
    read = coco_digests(coco)
    folder = _folder(checkpoints, recipe, f"seed{seed}-{digest[:12]}", read)
    inputs = {**read, "weights": digest}
    widths = run_transfer(weights=weights, coco=coco, inputs=inputs, checkpoints=folder, seed=seed, **dump(recipe))
    if widths is None:
        return
    document = results.document(
        "transfer",
        run=run,
        seed=seed,
        recipe=recipe,
        data=read,
        weights_sha256=digest,
        started=started,
        epochs=recipe.epochs,
        widths=widths,
    )
    write_json(out, document)


def _folder(checkpoints: Path, recipe: Detection, part: str, read: dict[str, str]) -> Path:
    """Where the checkpoints of a recipe, its weights and this data lie: others begin anew beside them."""
    text = json.dumps({"recipe": fingerprint(recipe), "data": read}, sort_keys=True)
    folder = checkpoints / hashlib.sha256(text.encode()).hexdigest()[:12] / part
    earlier = checkpoints / fingerprint(recipe)[:12] / part
    if not folder.exists() and newest_checkpoint(earlier) and os.environ.get("RANK", "0") == "0":
        line = "of an earlier version, which did not note what it was trained on; not used, training begins anew"
        print(f"{earlier}: {line}", file=sys.stderr, flush=True)
    return folder
