"""Take over a checkpoint of the reference implementation."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from slimclr import results
from slimclr.arch import CIFAR_BLOCKS
from slimclr.config import Checkpoint as Settings
from slimclr.config import fingerprint
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.stores import open_images
from slimclr.digests import compare, digests
from slimclr.errors import UserError
from slimclr.external_weights import WEIGHTS, read_header, refuse_to_replace
from slimclr.files import sha256, write_json, write_text
from slimclr.nn import build_backbone
from slimclr.nn.foreign import load_state
from slimclr.nn.reference import Checkpoint, read_state
from slimclr.nn.weights import BACKBONE, load_backbone, read_weights, save_weights
from slimclr.probe import OwnClassifier, evaluate

RESIZE, IMAGE_SIZE, BATCH = 256, 224, 32
_CIFAR_SIZE = 32
# What the header of this project's own weights says of their origin, and of classes and images.
_SOURCE = ("source", "source_sha256")
_TOLD = ("classes", "image_size", "views", "finetuned_widths")


def import_checkpoint(
    file: Path,
    *,
    out: Path,
    run: str | None = None,
    recipe: Settings | None = None,
    hash_check: bool = True,
    val: Path | None = None,
    photos: int = 200,
) -> None:
    """Write a run's folder of results from a checkpoint, and print what was found.

    Args:
        file: `.pth.tar` of pre-training or of a linear probe in the reference implementation's naming; or weights of
            this project, `.safetensors`.
        out: The run's folder, or the `weights.safetensors` in it; a `.safetensors` of another name is written alone.
        run: The run's name; None: the folder's, or that of `file` without suffix for a file alone.
        recipe: What the run's recipe says of the file; None: an import by hand, which no rule makes again.
        hash_check: Refuse a file whose content does not fit the recipe's hash, or without one that in its name.
        val: Validation images, an LMDB or a folder, to try the file's classifier on.
        photos: How many of them.

    Raises:
        UserError: The file is missing, damaged, holds more than data, is no checkpoint of the reference, or does not
            fit its hash or the recipe's method; or its classifier does badly on `val`; or `out` has weights that were
            not imported. Nothing is written then.
    """
    started = time.time()
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; download it first, or correct the path")
    if photos < 1:
        raise UserError(f"--photos {photos}: give at least one photo")
    alone = out.suffix == ".safetensors" and out.name != WEIGHTS
    folder = out.parent if out.name == WEIGHTS else out
    weights = out if alone else folder / WEIGHTS
    if not alone and not (weights.exists() and weights.samefile(file)):
        refuse_to_replace(folder, made_by="import")
    found = digests(file)
    print(f"hash     {_compare_hash(file, found, recipe, refuse=hash_check)}")
    checkpoint, source, told = _read(file, recipe)
    ignored = ", ".join(f"{count} of {kind}" for kind, count in checkpoint.ignored.items())
    print(f"method   {checkpoint.method}")
    print(f"network  {checkpoint.arch}, widths {', '.join(map(str, checkpoint.shape['widths']))}")
    print(f"tensors  {len(checkpoint.tensors)} taken, {sum(checkpoint.ignored.values())} ignored ({ignored or 'none'})")
    if val is not None:
        _try_classifier(file, checkpoint, val, photos)
    stem = file.name.removesuffix(".tar").removesuffix(".pth").removesuffix(".safetensors")
    name = run or (stem if alone else folder.resolve().name)
    header = results.identity("import", name, None) | {"method": checkpoint.method}
    header |= {"recipe_sha256": fingerprint(recipe)} if recipe else {}
    source = {"source": file.name, "source_sha256": found["SHA-256"]} | source
    if not alone:
        # Until the end nothing may pass for the description of these weights.
        (folder / "metrics.json").unlink(missing_ok=True)
    save_weights(weights, checkpoint.tensors, header | told | checkpoint.shape | source)
    if not alone:
        _describe(folder, checkpoint, name, recipe, source, started, image_size=told.get("image_size"))
    print(f"written  {out}, run {name}")


def _read(file: Path, recipe: Settings | None) -> tuple[Checkpoint, dict[str, Any], dict[str, Any]]:
    """The checkpoint, where it came from as far as an earlier import of it tells, and what our own weights say else."""
    checkpoint, source, told = _read_any(file)
    if recipe and recipe.method not in (None, checkpoint.method):
        raise UserError(
            f"{file}: holds a network of method {checkpoint.method}, but its recipe says checkpoint.method "
            f"{recipe.method}; name the file that was meant, or correct the recipe"
        )
    return checkpoint, source, told


def _read_any(file: Path) -> tuple[Checkpoint, dict[str, Any], dict[str, Any]]:
    if file.suffix == ".safetensors" and (header := read_header(file)):
        backbone, _ = load_backbone(file)
        tensors, _ = read_weights(file)
        source, told = ({key: header[key] for key in keys if key in header} for keys in (_SOURCE, _TOLD))
        return Checkpoint(header.get("method", ""), backbone.arch, backbone.shape, tensors, {}), source, told
    try:
        return read_state(load_state(file)), {}, {}
    except UserError:
        raise
    except ValueError as error:
        lines = "\n".join(f"{file}: {line}" for line in str(error).splitlines())
        raise UserError(f"{lines}; give a whole checkpoint of the reference implementation") from None


def _describe(
    folder: Path,
    checkpoint: Checkpoint,
    run: str,
    recipe: Settings | None,
    source: dict[str, Any],
    started: float,
    *,
    image_size: int | None,
) -> None:
    """Write what pre-training writes beside its weights, as far as a checkpoint tells."""
    with torch.device("meta"):
        backbone = build_backbone(**checkpoint.shape)
    size = image_size or (_CIFAR_SIZE if backbone.depth in CIFAR_BLOCKS else IMAGE_SIZE)
    about = {"method": {"name": checkpoint.method}, "backbone": checkpoint.shape, "import": source}
    write_text(folder / "config.yaml", yaml.safe_dump(about, sort_keys=False))
    write_text(folder / "metrics.jsonl", "")
    document = results.document(
        "import",
        run=run,
        seed=None,
        recipe=recipe,
        data=None,
        weights_sha256=sha256(folder / WEIGHTS),
        started=started,
        method=checkpoint.method,
        arch=backbone.arch,
        image_size=size,
        epochs=None,
        steps=None,
        comparable=False,
        comparable_because=[f"its weights were imported from {source['source']}, trained elsewhere"],
        widths=results.sizes(backbone, image_size=size),
        tensors={"taken": len(checkpoint.tensors), "ignored": checkpoint.ignored},
        **source,
    )
    write_json(folder / "metrics.json", document)


def _compare_hash(file: Path, found: dict[str, str], recipe: Settings | None, *, refuse: bool) -> str:
    fits, words = compare(file.name, found, expected=recipe.sha256 if recipe else None)
    if fits:
        return words
    if refuse:
        known = "write its own sha256 into the recipe" if recipe else "pass --no-hash-check"
        raise UserError(f"{file}: {words}; download it again, or {known} to take it as it is")
    return f"MISMATCH, let pass by --no-hash-check: {words}"


def _try_classifier(file: Path, checkpoint: Checkpoint, val: Path, photos: int) -> None:
    """Print each width's top-1 accuracy on some photos; refuse a classifier whose order of classes does not fit."""
    backbone = build_backbone(**checkpoint.shape)
    backbone.load_state_dict(
        {
            name.removeprefix(BACKBONE): tensor
            for name, tensor in checkpoint.tensors.items()
            if name.startswith(BACKBONE)
        }
    )
    classifier = OwnClassifier.from_tensors(backbone, checkpoint.tensors, {})
    if classifier is None:
        raise UserError(f"{file}: holds no classifier to try on {val}; leave --val out for a pre-training checkpoint")
    images = open_images(val)
    classes = len(images.classes)
    if classifier.classes != classes:
        raise UserError(
            f"{val}: has {classes} classes, but the classifier in {file} has {classifier.classes}; "
            "give the data set that it was trained on, or leave --val out"
        )
    # Evenly out of the images in the order of their classes.
    order = np.argsort(images.labels, kind="stable")
    chosen = order[np.linspace(0, len(order), min(photos, len(order)), endpoint=False).astype(int)]
    loader = validation_loader(
        images, resize=RESIZE, image_size=IMAGE_SIZE, batch=BATCH, workers=0, chosen=chosen.tolist()
    )
    accuracies = {width: top["top1"] for width, top in evaluate(classifier, loader, torch.device("cpu")).items()}
    found = ", ".join(f"{width}: {top1:.1f} %" for width, top1 in accuracies.items())
    print(f"top-1    {found}; chance {100 / classes:.1f} %; {len(chosen)} photos of {val}")
    needed = 100 * min(10 / classes, 0.5)
    if accuracies[1.0] < needed:
        raise UserError(
            f"{file}: the order of classes does not fit {val}: the full width's top-1 is {accuracies[1.0]:.1f} %, "
            f"less than {needed:.1f} %; give the data set with the classes in the order of the training"
        )
