"""Linear probes of one run."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimclr import results
from slimclr.build.loader import build_training_loader, build_validation_loader, validation_batch
from slimclr.build.monitor import build_probe_monitors
from slimclr.build.probe import build_probe
from slimclr.build.trainer import build_trainer
from slimclr.config import Probe
from slimclr.data.archives.classes import check_same_classes
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.subset import Subset, drawn_share
from slimclr.engine.distributed import Process, process_group
from slimclr.engine.run_folder import finish, folder_of, identity, open_folder
from slimclr.errors import UserError
from slimclr.files import sha256, write_json
from slimclr.nn import SlimmableResNet
from slimclr.nn.placement import allow_tf32, place
from slimclr.nn.weights import load_backbone, read_weights
from slimclr.probe import LinearProbe, OwnClassifier
from slimclr.probe.classifier import NAME, Trained, save_classifier
from slimclr.probe.grid import GridProbe
from slimclr.probe.outcome import Outcome, outcome, outcome_of_grid, rounded
from slimclr.seeds import derived_seed
from slimclr.statistics import with_intervals


def probe(
    recipe: Probe,
    *,
    run: str,
    seed: int,
    weights: Path,
    train: Path | None,
    val: Path,
    out: Path,
    checkpoints: Path,
    gpus: int,
) -> None:
    """Train one linear classifier per width on a frozen backbone, evaluate the last epoch, write metrics.json
    and, beside it, classifier.safetensors.

    Args:
        recipe: How to train the probe.
        run: The run's name.
        seed: Seed of classifier, order and views.
        weights: `weights.safetensors` of the run.
        train: Training images, an LMDB or a folder; None: not needed for a run's own classifier, 0 epochs.
        val: Validation images.
        out: `metrics.json`.
        checkpoints: Folder of this probe's rolling checkpoints.
        gpus: GPUs to use; 0 is the CPU.
    """
    started = time.time()
    (backbone, _), digest = load_backbone(weights), sha256(weights)
    val_images, train_images, read = open_images(val), None, {}
    if recipe.epochs:
        train_images, read["train_images"] = _training_images(run, train, val, val_images.classes)
    read["val_images"] = images_digest(val_images)
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
        method: LinearProbe | GridProbe | OwnClassifier
        kept: Images | None = None
        if train_images is not None:
            about: dict[str, Any] = {"run": run, "seed": seed, "known": known, "folder": folder, "process": process}
            method, kept = _train(recipe, backbone, train_images, val_images, **about)
        else:
            method = _own_classifier(weights, backbone, len(val_images.classes), process)
        got = _outcome(recipe, method, backbone, val_images, kept, process)
        if not process.main:
            return
        finish(folder, recipe, inputs)
    header = _header(recipe, backbone, val_images, digest, validation_batch(recipe, process))
    save_classifier(out.with_name(NAME), got.head, widths=backbone.widths, trained=header)
    values: dict[str, Any] = {"arch": backbone.arch, "epochs": recipe.epochs, "images": len(val_images)}
    values["widths"] = {width: with_intervals(top, len(val_images)) for width, top in rounded(got.accuracies).items()}
    values |= {"run": run, "seed": seed, "recipe": recipe, "data": read, "weights_sha256": digest} | got.values
    write_json(out, results.document("probe", started=started, **values, **_validation(recipe, folder)))


def _validation(recipe: Probe, folder: Path) -> dict[str, Any]:
    """Accuracies on the way, by epoch, out of the records; nothing where the recipe asks for none."""
    if recipe.validation is None:
        return {}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"validation": [{"epoch": line["epoch"], "widths": line["val"]} for line in lines if "val" in line]}


def _header(recipe: Probe, backbone: SlimmableResNet, val: Images, digest: str, batch: int) -> Trained:
    """What classifier.safetensors says of itself."""
    return Trained(
        classes=tuple(val.classes),
        backbone_sha256=digest,
        arch=backbone.arch,
        resize=recipe.resize,
        image_size=recipe.image_size,
        views=recipe.views,
        batch=batch,
        loader=recipe.loader,
    )


def _training_images(run: str, train: Path | None, val: Path, classes: Sequence[str]) -> tuple[Images, str]:
    """The images to train on, of the same classes as those in `val`, and their digest."""
    if train is None:
        raise UserError(f"{run}: training a probe needs images; name them with --train")
    images = open_images(train)
    check_same_classes(train, images.classes, val, classes)
    return images, images_digest(images)


def _train(
    recipe: Probe,
    backbone: SlimmableResNet,
    images: Images,
    val: Images,
    *,
    run: str,
    seed: int,
    known: dict[str, Any],
    folder: Path,
    process: Process,
) -> tuple[LinearProbe | GridProbe, Images | None]:
    """Linear classifiers of all widths after their last epoch, and the images that were held out."""
    images, kept = _split(recipe, images, seed)
    method = build_probe(recipe, backbone, classes=len(images.classes), device=process.device)
    loader = build_training_loader(recipe, images, batch=recipe.batch // process.world_size, seed=seed, process=process)
    trainer = build_trainer(
        recipe,
        method,
        loader,
        process=process,
        folder=folder,
        name=f"probe {run}",
        identity=known,
        monitors=build_probe_monitors(recipe, method, backbone, val, seed=seed, process=process),
    )
    trainer.train()
    return method, kept


def _split(recipe: Probe, images: Images, seed: int) -> tuple[Images, Images | None]:
    """The images to train on, and those that choose; None where none are held out."""
    if recipe.held_out is None:
        return images, None
    kept = drawn_share(images.labels, recipe.held_out, derived_seed("held_out", seed))
    rest = np.setdiff1d(np.arange(len(images)), kept)
    if len(rest) < recipe.batch:
        raise UserError(
            f"probe.held_out: {recipe.held_out} of the training images are {len(kept):,} and leave {len(rest):,}, less "
            f"than a batch of {recipe.batch:,}; hold out fewer"
        )
    return Subset(images, rest), Subset(images, kept)


def _outcome(
    recipe: Probe,
    method: LinearProbe | GridProbe | OwnClassifier,
    backbone: SlimmableResNet,
    val: Images,
    kept: Images | None,
    process: Process,
) -> Outcome:
    """Accuracies on the validation images; all processes call it."""
    loader = build_validation_loader(recipe, val, process=process)
    if not isinstance(method, GridProbe):
        return outcome(method, loader, process.device)
    held_out = None if kept is None else build_validation_loader(recipe, kept, process=process)
    return outcome_of_grid(method, backbone, loader, held_out, process.device)


def _own_classifier(weights: Path, backbone: SlimmableResNet, classes: int, process: Process) -> OwnClassifier:
    """The classifier that a supervised run was trained with."""
    classifier = OwnClassifier.from_tensors(backbone, *read_weights(weights))
    if classifier is None or classifier.classes != classes:
        raise UserError(
            f"{weights}: holds no classifier of {classes} classes; a probe of 0 epochs needs a run with its own"
        )
    place(classifier, process.device)
    return classifier
