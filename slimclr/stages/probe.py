"""Linear probes of one run."""

import time
from pathlib import Path
from typing import Any

import torch

from slimclr.build.loader import build_training_loader, build_validation_loader
from slimclr.build.trainer import build_trainer
from slimclr.config import Probe, fingerprint
from slimclr.data.archives.classes import check_same_classes
from slimclr.data.stores import open_images
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.images import Images
from slimclr.engine.distributed import Processes, processes
from slimclr.engine.folder import finish, folder_of, identity, open_folder
from slimclr.errors import UserError
from slimclr.files import sha256, write_json
from slimclr.nn import SlimmableResNet
from slimclr.nn.placement import allow_tf32, place
from slimclr.nn.weights import load_backbone, read_weights
from slimclr.probe import LinearProbe, OwnClassifier, evaluate
from slimclr.provenance import provenance


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
    # Classifiers of other weights are of no use to this backbone.
    part = f"seed{seed}-{digest[:12]}"
    train_images, val_images = open_images(train), open_images(val)
    check_same_classes(train, train_images.classes, val, val_images.classes)
    read = {"train_images": images_digest(train_images), "val_images": images_digest(val_images)}
    inputs = {**read, "weights": digest}
    folder = folder_of(checkpoints, recipe, part, inputs)
    allow_tf32(recipe.tf32)
    with (
        processes(gpus, folder / "errors") as where,
        open_folder(checkpoints, recipe, part=part, inputs=inputs, main=where.main),
    ):
        if recipe.batch % where.world:
            raise UserError(f"probe.batch: {recipe.batch} images do not divide among {where.world} GPUs")
        torch.manual_seed(seed)
        method: LinearProbe | OwnClassifier
        if recipe.epochs:
            method = linear = LinearProbe(backbone, len(train_images.classes))
            place(linear, where.device)
            known = identity("probe", recipe, part, inputs)
            _train(recipe, linear, train_images, run=run, seed=seed, known=known, folder=folder, where=where)
        else:
            method = _own_classifier(weights, backbone, len(val_images.classes))
            place(method, where.device)
        loader = build_validation_loader(recipe, val_images, where=where)
        accuracies = evaluate(method, loader, where.device)
        if not where.main:
            return
        finish(folder, recipe, inputs)
    write_json(
        out,
        {
            "schema": 1,
            "run": run,
            "stage": "probe",
            "seed": seed,
            "arch": backbone.arch,
            "epochs": recipe.epochs,
            "widths": {str(width): {k: round(v, 4) for k, v in top.items()} for width, top in accuracies.items()},
            "weights_sha256": digest,
            "recipe_sha256": fingerprint(recipe),
            "data_sha256": read,
            "provenance": provenance(started),
        },
    )


def _train(
    recipe: Probe,
    method: LinearProbe,
    images: Images,
    *,
    run: str,
    seed: int,
    known: dict[str, Any],
    folder: Path,
    where: Processes,
) -> None:
    loader = build_training_loader(recipe, images, batch=recipe.batch // where.world, seed=seed, where=where)
    build_trainer(
        recipe,
        method,
        loader,
        where=where,
        folder=folder,
        name=f"probe {run}",
        identity=known,
    ).train()


def _own_classifier(weights: Path, backbone: SlimmableResNet, classes: int) -> OwnClassifier:
    tensors, _ = read_weights(weights)
    classifier = OwnClassifier.from_tensors(backbone, tensors)
    if classifier is None or classifier.classes != classes:
        raise UserError(
            f"{weights}: holds no classifier of {classes} classes; a probe of 0 epochs needs a supervised run"
        )
    return classifier
