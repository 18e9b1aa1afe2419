"""Fine-tuning of one run's network with all labels or few."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slimclr import results
from slimclr.build.loader import build_training_loader, build_validation_loader
from slimclr.build.loss import build_distillation
from slimclr.build.trainer import build_trainer
from slimclr.config import FineTune, fingerprint
from slimclr.data.archives.classes import check_same_classes
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.subset import Subset, drawn_share, list_text, named_images
from slimclr.engine.distributed import Process, broadcast_buffers, process_group
from slimclr.engine.records import copy_records
from slimclr.engine.run_folder import finish, folder_of, identity, open_folder
from slimclr.errors import UserError
from slimclr.external_weights import refuse_to_replace
from slimclr.files import atomic_path, sha256, write_json, write_text
from slimclr.methods import SubNetworkLoss
from slimclr.methods.finetune import FineTuning
from slimclr.nn import SlimmableResNet
from slimclr.nn.placement import allow_tf32, place
from slimclr.nn.weights import load_backbone, save_weights
from slimclr.probe import evaluate

LIST = "images.txt"


@dataclass(frozen=True)
class _Labelled:
    """The images whose labels are used, and how many there are in all."""

    images: Images
    total: int
    everything: bool

    def beside(self, accuracies: dict[str, float]) -> dict[str, float]:
        """A width's accuracies in percent, and how many labels they took."""
        used = len(self.images)
        rounded = {name: round(value, 4) for name, value in accuracies.items()}
        return rounded | {"label_images": used, "label_percent": round(100 * used / self.total, 4)}

    @property
    def text(self) -> str:
        """Their names, one a line."""
        return list_text(self.images)


def finetune(
    recipe: FineTune,
    *,
    run: str,
    seed: int,
    weights: Path,
    train: Path,
    val: Path,
    names: Path | None,
    out: Path,
    checkpoints: Path,
    gpus: int,
) -> None:
    """Train backbone and a new classifier, evaluate the last epoch, write weights.safetensors and metrics.json.

    Args:
        recipe: How to fine-tune.
        run: The run's name.
        seed: Seed of the classifier, of order and views, and of the images whose labels are used.
        weights: `weights.safetensors` of the run.
        train: Training images, an LMDB or a folder.
        val: Validation images.
        names: The list that the recipe names; None where it names none.
        out: Folder of the results.
        checkpoints: Folder of this fine-tuning's rolling checkpoints.
        gpus: GPUs to use; 0 is the CPU.

    Raises:
        UserError: A width or image is not there, a batch does not fit, or `out` holds weights of another stage.
        Preempted: SIGTERM or SIGUSR1 asked to stop; run it again.
    """
    started = time.time()
    refuse_to_replace(out, made_by="finetune")
    backbone, _ = load_backbone(weights)
    widths = _widths(recipe, backbone, weights)
    digest = sha256(weights)
    train_images, val_images = open_images(train), open_images(val)
    check_same_classes(train, train_images.classes, val, val_images.classes)
    labelled = _labelled(recipe, train_images, names, seed)
    read = {"train_images": images_digest(train_images), "val_images": images_digest(val_images)}
    inputs = {**read, "weights": digest, "labels": hashlib.sha256(labelled.text.encode()).hexdigest()}
    part = f"seed{seed}-{digest[:12]}"
    folder = folder_of(checkpoints, recipe, part, inputs)
    allow_tf32(recipe.tf32)
    with (
        process_group(gpus, folder / "errors") as process,
        open_folder(checkpoints, recipe, part=part, inputs=inputs, main=process.main),
    ):
        _check_batch(recipe, process)
        method = _train(recipe, backbone, widths, labelled, run, seed, part, inputs, folder=folder, process=process)
        accuracies = _evaluate(recipe, method, val_images, process)
        if not process.main:
            return
        finish(folder, recipe, inputs)
    _write_network(recipe, method, out, run=run, seed=seed, classes=train_images.classes)
    _write_records(folder, out, labelled)
    figures = {str(width): labelled.beside(top) for width, top in accuracies.items()}
    about: dict[str, Any] = {"run": run, "seed": seed, "recipe": recipe, "data": inputs, "weights_sha256": digest}
    about |= {"arch": backbone.arch, "epochs": recipe.epochs, "widths": figures}
    write_json(out / "metrics.json", results.document("finetune", **about, started=started))


def _evaluate(recipe: FineTune, method: FineTuning, images: Images, process: Process) -> dict[float, dict[str, float]]:
    broadcast_buffers(method, process)
    return evaluate(method, build_validation_loader(recipe, images, process=process), process.device)


def _write_network(
    recipe: FineTune, method: FineTuning, out: Path, *, run: str, seed: int, classes: Sequence[str]
) -> None:
    """Backbone and classifier, as a supervised run's."""
    header = results.identity("finetune", run, seed) | {
        "method": "supervised",
        "recipe_sha256": fingerprint(recipe),
        "classes": list(classes),
        "image_size": recipe.image_size,
        "views": recipe.views,
        "finetuned_widths": list(method.widths),
    }
    shape = method.encoder.backbone.shape | {"widths": list(method.exported_widths())}
    save_weights(out / "weights.safetensors", method.exported(), header | shape)


def _widths(recipe: FineTune, backbone: SlimmableResNet, weights: Path) -> tuple[float, ...]:
    wanted = recipe.widths or backbone.widths
    if unknown := [width for width in wanted if width not in backbone.widths]:
        raise UserError(
            f"finetune.widths: {weights} has no width {unknown[0]}, but {', '.join(map(str, backbone.widths))}; choose "
            "among them"
        )
    return tuple(sorted(wanted, reverse=True))


def _labelled(recipe: FineTune, images: Images, names: Path | None, seed: int) -> _Labelled:
    if recipe.names is not None and names is None:
        raise UserError(f"finetune.names: {recipe.names} is below paths.raw; give the file with --names")
    if names is not None:
        return _Labelled(Subset(images, named_images(images.keys, names)), len(images), everything=False)
    if recipe.labels == 1.0:
        return _Labelled(images, len(images), everything=True)
    return _Labelled(Subset(images, drawn_share(images.labels, recipe.labels, seed)), len(images), everything=False)


def _check_batch(recipe: FineTune, process: Process) -> None:
    share, rest = divmod(recipe.batch, process.world_size)
    if rest:
        raise UserError(f"finetune.batch: {recipe.batch} images do not divide among {process.world_size} GPUs")
    if share < 2:
        raise UserError(
            f"finetune.batch: {recipe.batch} on {process.world_size} GPUs is one image for batch norm; use more"
        )


def _train(
    recipe: FineTune,
    backbone: SlimmableResNet,
    widths: tuple[float, ...],
    labelled: _Labelled,
    run: str,
    seed: int,
    part: str,
    inputs: dict[str, str],
    *,
    folder: Path,
    process: Process,
) -> FineTuning:
    """The network after its last epoch."""
    settings = recipe.distillation
    combine = SubNetworkLoss(
        dict.fromkeys(widths, 1.0),
        None if settings is None else build_distillation(settings),
        0.0 if settings is None else settings.share,
        full_distill=settings is not None and settings.full_distill,
    )
    torch.manual_seed(seed)
    classes = len(labelled.images.classes)
    method = FineTuning(backbone, classes=classes, widths=widths, classifier=recipe.classifier, combine=combine)
    place(method, process.device)
    batch = recipe.batch // process.world_size
    loader = build_training_loader(recipe, labelled.images, batch=batch, seed=seed, process=process)
    name, known = f"finetune {run}", identity("finetune", recipe, part, inputs)
    build_trainer(recipe, method, loader, process=process, folder=folder, name=name, identity=known).train()
    return method


def _write_records(folder: Path, out: Path, labelled: _Labelled) -> None:
    """The training's records, and the list of the images unless all were used."""
    with atomic_path(out / "metrics.jsonl") as part:
        part.write_bytes((folder / "metrics.jsonl").read_bytes())
    copy_records(folder, out)
    if labelled.everything:
        (out / LIST).unlink(missing_ok=True)
    else:
        write_text(out / LIST, labelled.text)
