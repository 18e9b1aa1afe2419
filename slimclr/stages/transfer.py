"""Mask R-CNN on COCO with the backbone of one run."""

import sys
import time
from pathlib import Path

import torch

from slimclr import results
from slimclr.config import Detection, dump
from slimclr.detection.content import coco_digests
from slimclr.detection.transfer import run_transfer
from slimclr.engine.distributed import process_group
from slimclr.engine.run_folder import finish, folder_of, identity, open_folder
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
        out: `metrics.json`; the detector is written beside it.
        checkpoints: Folder of this transfer's rolling checkpoints.

    Raises:
        Preempted: SIGTERM or SIGUSR1 asked to stop; run it again.
    """
    started = time.time()
    digest = sha256(weights)
    read = coco_digests(coco)
    # A detector of other weights is of no use to this backbone.
    part, inputs = f"seed{seed}-{digest[:12]}", {**read, "weights": digest}
    folder = folder_of(checkpoints, recipe, part, inputs)
    with (
        process_group(int(torch.cuda.is_available()), folder / "errors") as process,
        open_folder(checkpoints, recipe, part=part, inputs=inputs, main=process.main),
    ):
        if process.main:
            _name_earlier(checkpoints, part)
        widths = run_transfer(
            name=f"transfer {run}",
            weights=weights,
            coco=coco,
            identity=identity("transfer", recipe, part, inputs),
            checkpoints=folder,
            process=process,
            keep=out.parent,
            seed=seed,
            **dump(recipe),
        )
        if widths is None:
            return
        finish(folder, recipe, inputs)
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


def _name_earlier(checkpoints: Path, part: str) -> None:
    """Say that mmengine's checkpoints, of an earlier version, are not gone on from: to read them may run a program."""
    for folder in sorted({path.parent for path in checkpoints.glob(f"*/{part}/epoch_*.pth")}):
        line = ": mmengine's checkpoints, of an earlier version, are not used; remove this folder to free the disk"
        print(f"{folder}{line}", file=sys.stderr, flush=True)
