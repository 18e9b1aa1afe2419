"""Quick probes of one run: nearest neighbours and ridge on stored features."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from slimclr import results
from slimclr.config import Quick, decisive
from slimclr.data.archives.classes import check_same_classes
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.space import check_space
from slimclr.data.stores import open_images
from slimclr.data.stores.base import Images
from slimclr.data.stores.digest import images_digest
from slimclr.engine.distributed import barrier, process_group
from slimclr.engine.preemption import stop_requests
from slimclr.errors import UserError
from slimclr.files import read_object, sha256, write_json
from slimclr.lock import exclusive_lock
from slimclr.nn import SlimmableResNet
from slimclr.nn.inference import FrozenBackbone
from slimclr.nn.placement import allow_tf32
from slimclr.nn.weights import load_backbone
from slimclr.probe.features import Features, difference, extract
from slimclr.probe.logistic import check_sklearn
from slimclr.probe.quick import Labelled, QuickProbes, Stop, held_out_count
from slimclr.probe.ridge import check_enough
from slimclr.progress import Advance, progress

PROTOCOL = "nearest neighbours and ridge on frozen features of centre crops; not the paper's protocol"
_IDENTITY, _SPLITS = "identity.json", ("train", "val")
# What of the settings decides the features.
_VIEW = ("views", "resize", "image_size", "loader", "tf32")


def quick(
    recipe: Quick,
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
    """Store the features of all images, classify the validation images at every width, write metrics.json.

    Args:
        recipe: How to probe.
        run: The run's name.
        seed: Draws the training images that choose ridge's penalty.
        weights: `weights.safetensors` of the run.
        train: Training images, an LMDB or a folder.
        val: Validation images.
        out: `metrics.json`.
        checkpoints: Folder of this run's features and of the widths that are done.
        gpus: GPUs to use; 0 is the CPU.

    Raises:
        UserError: Fewer training images than classes, features that are not finite, or stored ones of something else.
        Preempted: SIGTERM or SIGUSR1 asked to stop; run it again.
    """
    started = time.time()
    backbone, _ = load_backbone(weights)
    images = {"train": open_images(train), "val": open_images(val)}
    check_same_classes(train, images["train"].classes, val, images["val"].classes)
    kept = len(images["train"]) - held_out_count(len(images["train"]), recipe.held_out)
    check_enough(kept, len(images["train"].classes))
    if recipe.logistic:
        check_sklearn()
    digest = sha256(weights)
    read = {f"{split}_images": images_digest(images[split]) for split in _SPLITS}
    identity = {"weights": digest, **read, **{key: str(getattr(recipe, key)) for key in _VIEW}}
    sizes = {width: round(backbone.out_features * width) for width in backbone.widths}
    stored = {split: Features(checkpoints / split, len(images[split]), sizes, identity) for split in _SPLITS}
    name = f"quick {run}"
    with (
        process_group(gpus, checkpoints / "errors") as process,
        _opened(checkpoints, identity, main=process.main),
        stop_requests() as request,
    ):
        barrier(process)
        stop = Stop(request, process, name, checkpoints)
        for split in _SPLITS:
            _extract(recipe, backbone, images[split], stored[split], name=f"{name}, {split}", stop=stop)
        train_set, val_set = (Labelled(stored[one], torch.from_numpy(images[one].labels)) for one in _SPLITS)
        probes = QuickProbes(train_set, val_set, len(images["train"].classes), process, stop)
        widths = {str(width): _probe(recipe, probes, width, seed, checkpoints) for width in backbone.widths}
        if not process.main:
            return
    about: dict[str, Any] = {"run": run, "seed": seed, "recipe": recipe, "data": read, "weights_sha256": digest}
    values: dict[str, Any] = {"arch": backbone.arch, "protocol": PROTOCOL, "widths": widths}
    write_json(out, results.document("quick", **about, started=started, **values))


@contextmanager
def _opened(folder: Path, identity: Mapping[str, str], *, main: bool) -> Iterator[None]:
    """Use the folder of features alone; features of other weights or images are told, removed and computed anew."""
    if not main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: the same run is being probed by another process; wait for it or end it"
    with exclusive_lock(folder / "lock", busy):
        path = folder / _IDENTITY
        written = read_object(path)
        if written and (differs := difference(written, identity)):
            line = f"{folder}: features of something else ({differs}); removed, they are computed anew"
            print(line, file=sys.stderr, flush=True)
            for split in _SPLITS:
                shutil.rmtree(folder / split, ignore_errors=True)
        write_json(path, dict(identity))
        yield


def _extract(
    recipe: Quick,
    backbone: SlimmableResNet,
    images: Images,
    stored: Features,
    *,
    name: str,
    stop: Stop,
) -> None:
    """Compute the blocks that are missing, each process its share; all have them when this returns."""
    process, missing = stop.process, stored.missing()
    if process.main:
        check_space(stored.folder, stored.missing_bytes())
    barrier(process)
    own = missing[process.rank :: process.world_size]
    chosen = [index for number in own for index in stored.parts[number]]
    fault: UserError | None = None
    allow_tf32(recipe.tf32)
    if chosen:
        loader = validation_loader(
            images,
            resize=recipe.resize,
            image_size=recipe.image_size,
            batch=recipe.batch,
            workers=recipe.workers,
            recipe="val" if recipe.views == "normal" else recipe.views,
            backend=recipe.loader,
            device=process.device,
            chosen=chosen,
        )
        with _progress(name, len(chosen), main=process.main) as advance:

            def goes_on(count: int) -> bool:
                advance(count)
                return stop.goes_on()

            try:
                extract(
                    FrozenBackbone(backbone, process.device), loader, stored, own, keys=images.keys, goes_on=goes_on
                )
            except UserError as error:
                fault = error
    stop.check(fault)
    # Neighbours are compared in full precision.
    allow_tf32(False)


def _progress(name: str, images: int, *, main: bool) -> AbstractContextManager[Advance]:
    return progress(name, images) if main else nullcontext(lambda *_: None)


def _probe(recipe: Quick, probes: QuickProbes, width: float, seed: int, folder: Path) -> dict[str, Any]:
    """One width's figures, from its file where an earlier start was done with it."""
    path = folder / f"width_{width}.json"
    about = {"identity": probes.train.features.identity, "recipe": decisive(recipe), "seed": seed}
    done = read_object(path) or {}
    # Before anybody writes a file, everybody has looked.
    barrier(probes.process)
    if {key: done.get(key) for key in about} == about and done.get("sha256") == _sum(done.get("figures")):
        return done["figures"]
    figures: dict[str, Any] = probes.knn(width, recipe.neighbours, recipe.temperatures)
    figures |= probes.ridge(width, recipe.penalties, held_out=recipe.held_out, seed=seed)
    if recipe.logistic:
        figures |= probes.logistic(width)
    figures = {
        key: round(value, 4) if "_top" in key and isinstance(value, float) else value for key, value in figures.items()
    }
    if probes.process.main:
        write_json(path, about | {"figures": figures, "sha256": _sum(figures)})
    return figures


def _sum(figures: Any) -> str:
    """A damaged digit would be another figure."""
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()
