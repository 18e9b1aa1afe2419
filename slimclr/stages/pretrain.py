"""Pre-training of one run."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from slimclr import results
from slimclr.build.backbone import build_backbone
from slimclr.build.batch import plan_batch
from slimclr.build.loader import build_training_loader
from slimclr.build.method import build_method, place_method
from slimclr.build.monitor import build_monitors, build_online
from slimclr.build.trainer import build_trainer
from slimclr.config import Pretrain, dump, fingerprint
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.data.stores.digest import images_digest
from slimclr.engine.distributed import process_group
from slimclr.engine.records import copy_records
from slimclr.engine.run_folder import finish, folder_of, identity, open_folder
from slimclr.engine.warm_start import STATE, begin_with_state, begin_with_weights, save_state
from slimclr.errors import UserError
from slimclr.external_weights import WEIGHTS, refuse_to_replace
from slimclr.files import atomic_path, sha256, write_json, write_text
from slimclr.nn import SlimmableResNet
from slimclr.nn.placement import allow_tf32
from slimclr.nn.sync import synchronise_batch_norm
from slimclr.nn.weights import BACKBONE, save_weights

_NOT_OF_THE_PAPER = "it is not a run of the paper"


@dataclass(frozen=True)
class _Trained:
    """A network that was trained or drawn.

    Attributes:
        backbone: The network.
        tensors: What is exported, `backbone.*` and `head.*`.
        steps: Optimiser steps.
        deviations: Why it is not comparable with the paper.
        inputs: SHA-256 of what was read, by name.
        folder: Where its records lie.
        classes: Names of the classifier's outputs; none where labels were not used.
    """

    backbone: SlimmableResNet
    tensors: dict[str, torch.Tensor]
    steps: int
    deviations: list[str]
    inputs: dict[str, str]
    folder: Path
    classes: tuple[str, ...] = ()


def pretrain(
    recipe: Pretrain,
    *,
    run: str,
    seed: int,
    data: Path | None,
    out: Path,
    checkpoints: Path,
    gpus: int,
    paper: bool,
    resume: Path | None = None,
    init: Path | None = None,
    val: Path | None = None,
) -> None:
    """Train one run and write weights.safetensors, config.yaml, metrics.jsonl and metrics.json into `out`.

    Args:
        recipe: What to train.
        run: Its name.
        seed: Seed of weights, order and views.
        data: Training images, an LMDB or a folder; not needed for a random backbone.
        out: Folder of the results.
        checkpoints: Folder of this run's rolling checkpoints.
        gpus: GPUs to use; 0 is the CPU.
        paper: The recipe is the paper's.
        resume: Checkpoint to resume from; None: the newest of this recipe and these images, if there is one.
        init: The file that the recipe's `init` stands for.
        val: Validation images, for a recipe's `validation`.

    Raises:
        UserError: `out` holds weights that pre-training did not make.
        Preempted: SIGTERM or SIGUSR1 asked to stop; run it again.
    """
    started = time.time()
    refuse_to_replace(out, made_by="pretrain")
    torch.manual_seed(seed)
    backbone = build_backbone(recipe.backbone)
    deviations = [] if paper else [_NOT_OF_THE_PAPER]
    if recipe.init is not None:
        deviations.append(f"it begins with the weights of {recipe.init}")
    trained: _Trained | None
    if recipe.method.name == "random":
        trained = _draw(backbone, folder_of(checkpoints, recipe, f"seed{seed}", {}), deviations)
    elif data is None:
        raise UserError(f"{run}: training needs images; name an LMDB or a folder with --data")
    else:
        about: dict[str, Any] = {"run": run, "seed": seed, "checkpoints": checkpoints, "gpus": gpus, "resume": resume}
        trained = _train(recipe, backbone, data, init=init, val=val, out=out, deviations=deviations, **about)
    if trained is not None:
        _write(recipe, trained, out, run=run, seed=seed, started=started)


def _draw(backbone: SlimmableResNet, folder: Path, deviations: list[str]) -> _Trained:
    """A random backbone, without records."""
    (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.jsonl", "")
    tensors = {f"{BACKBONE}{name}": tensor for name, tensor in backbone.state_dict().items()}
    return _Trained(backbone, tensors, 0, deviations, {}, folder)


def _train(
    recipe: Pretrain,
    backbone: SlimmableResNet,
    data: Path,
    *,
    run: str,
    seed: int,
    checkpoints: Path,
    gpus: int,
    resume: Path | None,
    init: Path | None,
    val: Path | None,
    out: Path,
    deviations: list[str],
) -> _Trained | None:
    """Train on all GPUs together; None on every process but the first."""
    images = open_images(data)
    part, inputs = f"seed{seed}", {"train_images": images_digest(images)} | _digest(recipe, init)
    folder = folder_of(checkpoints, recipe, part, inputs)
    allow_tf32(recipe.tf32)
    with (
        process_group(gpus, folder / "errors") as process,
        open_folder(checkpoints, recipe, part=part, inputs=inputs, main=process.main),
    ):
        plan = plan_batch(recipe, process.world_size)
        deviations = [*deviations, *plan.deviations, *_of_images(images)]
        if process.main and deviations:
            print(f"pretrain {run}: not comparable with the paper: {'; '.join(deviations)}", flush=True)
        method = build_method(recipe, backbone, classes=len(images.classes), seed=seed)
        if process.world_size > 1 and recipe.batch_norm == "synchronised":
            synchronise_batch_norm(method, process.device)
        if init is not None and recipe.init_take != "state":
            begin_with_weights(method, backbone, init, head=recipe.init_take == "head")
        place_method(method, backbone, recipe, process.device)
        online = build_online(recipe, method, backbone, images, seed=seed, process=process)
        trainer = build_trainer(
            recipe,
            method,
            build_training_loader(
                recipe, images, batch=plan.per_gpu, seed=seed, process=process, widths=backbone.widths
            ),
            process=process,
            folder=folder,
            name=f"pretrain {run}",
            identity=identity("pretrain", recipe, part, inputs),
            accumulation=plan.accumulation,
            monitors=build_monitors(recipe, method, backbone, images, val, seed=seed, process=process, online=online),
            online=online,
            resume=resume,
        )
        if init is not None and recipe.init_take == "state":
            begin_with_state(method, trainer.optimizer, init)
        trainer.train()
        if not process.main:
            return None
        if recipe.keep_state:
            save_state(out / STATE, method, trainer.optimizer, _header(recipe, run, seed) | {"steps": trainer.step})
        finish(folder, recipe, inputs)
    classes = tuple(images.classes) if recipe.method.name == "supervised" else ()
    return _Trained(backbone, method.exported(), trainer.step, deviations, inputs, folder, classes)


def _of_images(images: Images) -> list[str]:
    """What is not as in the archives."""
    resized = getattr(images, "resized", None)
    if not resized:
        return []
    return [f"training images are scaled down to {resized['shorter_side']} px (JPEG quality {resized['quality']})"]


def _digest(recipe: Pretrain, init: Path | None) -> dict[str, str]:
    """What a training begins with, as one of its inputs."""
    if recipe.init is None and init is None:
        return {}
    if recipe.init is None or init is None:
        raise UserError("init in the recipe and --init, its file, go together; give both or none")
    if not init.is_file():
        raise UserError(f"{init}: no such file to begin with; correct init, or run pretrain of that run first")
    return {"init": sha256(init)}


def _header(recipe: Pretrain, run: str, seed: int) -> dict[str, Any]:
    """What weights and a state were made by."""
    about = {"method": recipe.method.name, "recipe_sha256": fingerprint(recipe)}
    return results.identity("pretrain", run, seed) | about


def _write(recipe: Pretrain, trained: _Trained, out: Path, *, run: str, seed: int, started: float) -> None:
    name, backbone = recipe.method.name, trained.backbone
    header = _header(recipe, run, seed) | {"image_size": recipe.image_size, "views": recipe.views}
    if trained.classes:
        header["classes"] = trained.classes
    if not recipe.keep_state:
        # Of an earlier training.
        (out / STATE).unlink(missing_ok=True)
    save_weights(out / WEIGHTS, trained.tensors, header | backbone.shape)
    write_text(out / "config.yaml", yaml.safe_dump(dump(recipe), sort_keys=False))
    with atomic_path(out / "metrics.jsonl") as part:
        part.write_bytes((trained.folder / "metrics.jsonl").read_bytes())
    copy_records(trained.folder, out)
    last, widths = _last_widths(out / "metrics.jsonl"), results.sizes(backbone, image_size=recipe.image_size)
    document = results.document(
        "pretrain",
        run=run,
        seed=seed,
        recipe=recipe,
        data=trained.inputs,
        weights_sha256=sha256(out / WEIGHTS),
        started=started,
        method=name,
        arch=backbone.arch,
        image_size=recipe.image_size,
        epochs=recipe.epochs,
        steps=trained.steps,
        comparable=not trained.deviations,
        comparable_because=trained.deviations,
        widths={width: size | last.get(width, {}) for width, size in widths.items()},
    )
    write_json(out / "metrics.json", document)


def _last_widths(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line["widths"] for line in reversed(lines) if "widths" in line), {})
