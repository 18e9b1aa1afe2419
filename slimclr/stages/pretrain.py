"""Pre-training of one run."""

import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from slimclr.brought import refuse_to_replace
from slimclr.build.backbone import build_backbone
from slimclr.build.batch import plan_batch
from slimclr.build.loader import build_training_loader
from slimclr.build.method import build_method, place_method
from slimclr.build.trainer import build_trainer
from slimclr.config import Pretrain, dump, fingerprint
from slimclr.data.stores import open_images
from slimclr.data.stores.digest import images_digest
from slimclr.data.stores.images import Images
from slimclr.engine.distributed import Processes, processes
from slimclr.engine.folder import finish, folder_of, identity, open_folder
from slimclr.engine.loop import Trainer
from slimclr.engine.records import copy_records
from slimclr.errors import UserError
from slimclr.files import atomic_path, sha256, write_json, write_text
from slimclr.nn import SlimmableResNet
from slimclr.nn.counts import count_macs, count_parameters
from slimclr.nn.placement import allow_tf32
from slimclr.nn.sync import synchronise_batch_norm
from slimclr.nn.weights import BACKBONE, save_weights
from slimclr.probe.knn import KNNMonitor
from slimclr.provenance import provenance

_NOT_OF_THE_PAPER = "it is not a run of the paper"


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
        resume: Checkpoint to go on from; None takes the newest of this recipe and these images, or begins.

    Raises:
        UserError: `out` holds weights that pre-training did not make.
        Preempted: SIGTERM or SIGUSR1 asked to stop; run it again.
    """
    started = time.time()
    refuse_to_replace(out, made_by="pretrain")
    part = f"seed{seed}"
    images = None if data is None or recipe.method.name == "random" else open_images(data)
    inputs = {} if images is None else {"train_images": images_digest(images)}
    folder = folder_of(checkpoints, recipe, part, inputs)
    torch.manual_seed(seed)
    backbone = build_backbone(recipe.backbone)
    if recipe.method.name == "random":
        exported = {f"{BACKBONE}{name}": tensor for name, tensor in backbone.state_dict().items()}
        deviations: list[str] = [] if paper else [_NOT_OF_THE_PAPER]
        steps = 0
        (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
        write_text(folder / "metrics.jsonl", "")
        main = True
    else:
        allow_tf32(recipe.tf32)
        with (
            processes(gpus, folder / "errors") as where,
            open_folder(checkpoints, recipe, part=part, inputs=inputs, main=where.main),
        ):
            trainer, deviations = _trainer(recipe, backbone, run, seed, images, inputs, folder, where, resume)
            if not paper:
                deviations.insert(0, _NOT_OF_THE_PAPER)
            if where.main and deviations:
                print(f"pretrain {run}: not comparable with the paper: {'; '.join(deviations)}", flush=True)
            trainer.train()
            exported, steps, main = trainer.method.exported(), trainer.step, where.main
            if main:
                finish(folder, recipe, inputs)
    if main:
        _write(recipe, backbone, exported, run, seed, steps, deviations, inputs, folder, out, started)


def _trainer(
    recipe: Pretrain,
    backbone: SlimmableResNet,
    run: str,
    seed: int,
    images: Images | None,
    inputs: dict[str, str],
    folder: Path,
    where: Processes,
    resume: Path | None,
) -> tuple[Trainer, list[str]]:
    plan = plan_batch(recipe, where.world)
    if images is None:
        raise UserError(f"{run}: training needs images; name an LMDB or a folder with --data")
    method = build_method(recipe, backbone, classes=len(images.classes), seed=seed)
    if where.world > 1 and recipe.batch_norm == "synchronised":
        synchronise_batch_norm(method, where.device)
    place_method(method, backbone, recipe, where.device)
    loader = build_training_loader(
        recipe, images, batch=plan.per_gpu, seed=seed, where=where, widths=len(backbone.widths)
    )
    monitor = None
    if recipe.knn:
        monitor = KNNMonitor(recipe.knn, backbone, images, image_size=recipe.image_size, seed=seed, where=where)
    trainer = build_trainer(
        recipe,
        method,
        loader,
        where=where,
        folder=folder,
        name=f"pretrain {run}",
        identity=identity("pretrain", recipe, f"seed{seed}", inputs),
        accumulation=plan.accumulation,
        monitor=monitor,
        resume=resume,
    )
    return trainer, list(plan.deviations)


def _write(
    recipe: Pretrain,
    backbone: SlimmableResNet,
    exported: dict[str, torch.Tensor],
    run: str,
    seed: int,
    steps: int,
    deviations: list[str],
    inputs: dict[str, str],
    folder: Path,
    out: Path,
    started: float,
) -> None:
    identity = {"schema": 1, "run": run, "stage": "pretrain", "seed": seed, "method": recipe.method.name}
    save_weights(
        out / "weights.safetensors", exported, identity | backbone.shape | {"recipe_sha256": fingerprint(recipe)}
    )
    write_text(out / "config.yaml", yaml.safe_dump(dump(recipe), sort_keys=False))
    with atomic_path(out / "metrics.jsonl") as part:
        part.write_bytes((folder / "metrics.jsonl").read_bytes())
    copy_records(folder, out)
    last = _last_widths(out / "metrics.jsonl")
    widths = {
        str(width): {
            "params": count_parameters(backbone, width),
            "macs": count_macs(backbone, width, image_size=recipe.image_size),
            **last.get(str(width), {}),
        }
        for width in backbone.widths
    }
    write_json(
        out / "metrics.json",
        identity
        | {
            "arch": backbone.arch,
            "image_size": recipe.image_size,
            "epochs": recipe.epochs,
            "steps": steps,
            "comparable": not deviations,
            "comparable_because": deviations,
            "widths": widths,
            "weights_sha256": sha256(out / "weights.safetensors"),
            "recipe_sha256": fingerprint(recipe),
            "data_sha256": inputs,
            "provenance": provenance(started),
        },
    )


def _last_widths(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line["widths"] for line in reversed(lines) if "widths" in line), {})
