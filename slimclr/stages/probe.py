"""Linear probes of one run."""

import time
from pathlib import Path
from typing import Any

import torch

from slimclr import results
from slimclr.build.loader import build_training_loader, build_validation_loader
from slimclr.build.trainer import build_trainer
from slimclr.config import Probe
from slimclr.data.archives.classes import check_same_classes
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.data.stores.digest import images_digest
from slimclr.engine.distributed import Process, process_group
from slimclr.engine.run_folder import finish, folder_of, identity, open_folder
from slimclr.errors import UserError
from slimclr.files import sha256, write_json
from slimclr.nn import SlimmableResNet
from slimclr.nn.placement import allow_tf32, place
from slimclr.nn.weights import load_backbone, read_weights
from slimclr.probe import LinearProbe, OwnClassifier, evaluate


def probe(
    recipe: Probe,
    *,
    run: str,
    seed: int,
    weights: Path,
    train: Path,
    val: Path,
    out: Path,
    checkpoints: Path,
    gpus: int,
) -> None:
    """Train one linear classifier per width on a frozen backbone, evaluate the last epoch, write metrics.json.

    Args:
        recipe: How to train the probe.
        run: The run's name.
        seed: Seed of classifier, order and views.
        weights: `weights.safetensors` of the run.
        train: Training images, an LMDB or a folder.
        val: Validation images.
        out: `metrics.json`.
        checkpoints: Folder of this probe's rolling checkpoints.
        gpus: GPUs to use; 0 is the CPU.
    """
    started = time.time()
    backbone, _ = load_backbone(weights)
    digest = sha256(weights)
    train_images, val_images = open_images(train), open_images(val)
    check_same_classes(train, train_images.classes, val, val_images.classes)
    read = {"train_images": images_digest(train_images), "val_images": images_digest(val_images)}
    # Classifiers of other weights are of no use to this backbone.
    part, inputs = f"seed{seed}-{digest[:12]}", {**read, "weights": digest}
    known, folder = identity("probe", recipe, part, inputs), folder_of(checkpoints, recipe, part, inputs)
    allow_tf32(recipe.tf32)
    with (
        process_group(gpus, folder / "errors") as process,
        open_folder(checkpoints, recipe, part=part, inputs=inputs, main=process.main),
    ):
        if recipe.batch % process.world_size:
            raise UserError(f"probe.batch: {recipe.batch} images do not divide among {process.world_size} GPUs")
        torch.manual_seed(seed)
        method: LinearProbe | OwnClassifier
        if recipe.epochs:
            method = _train(
                recipe, backbone, train_images, run=run, seed=seed, known=known, folder=folder, process=process
            )
        else:
            method = _own_classifier(weights, backbone, len(val_images.classes), process)
        accuracies = evaluate(method, build_validation_loader(recipe, val_images, process=process), process.device)
        if not process.main:
            return
        finish(folder, recipe, inputs)
    values: dict[str, Any] = {
        "arch": backbone.arch,
        "epochs": recipe.epochs,
        "widths": {str(width): {k: round(v, 4) for k, v in top.items()} for width, top in accuracies.items()},
    }
    about: dict[str, Any] = {"run": run, "seed": seed, "recipe": recipe, "data": read, "weights_sha256": digest}
    write_json(out, results.document("probe", **about, started=started, **values))


def _train(
    recipe: Probe,
    backbone: SlimmableResNet,
    images: Images,
    *,
    run: str,
    seed: int,
    known: dict[str, Any],
    folder: Path,
    process: Process,
) -> LinearProbe:
    """Linear classifiers of all widths after their last epoch."""
    method = LinearProbe(backbone, len(images.classes))
    place(method, process.device)
    loader = build_training_loader(recipe, images, batch=recipe.batch // process.world_size, seed=seed, process=process)
    trainer = build_trainer(recipe, method, loader, process=process, folder=folder, name=f"probe {run}", identity=known)
    trainer.train()
    return method


def _own_classifier(weights: Path, backbone: SlimmableResNet, classes: int, process: Process) -> OwnClassifier:
    """The classifier that a supervised run was trained with."""
    tensors, _ = read_weights(weights)
    classifier = OwnClassifier.from_tensors(backbone, tensors)
    if classifier is None or classifier.classes != classes:
        raise UserError(
            f"{weights}: holds no classifier of {classes} classes; a probe of 0 epochs needs a supervised run"
        )
    place(classifier, process.device)
    return classifier
