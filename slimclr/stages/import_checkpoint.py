"""Take over a checkpoint of the reference implementation."""

import argparse
import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimclr.data import open_images
from slimclr.data.loaders import validation_loader
from slimclr.errors import UserError
from slimclr.nn import build_backbone
from slimclr.nn.reference import Checkpoint, read_state
from slimclr.nn.weights import BACKBONE, save_weights
from slimclr.probe import OwnClassifier, evaluate

RESIZE, IMAGE_SIZE, BATCH = 256, 224, 32
_CHUNK = 1 << 20
_HASHES = {"SHA-256": "sha256", "MD5": "md5", "SHA-1": "sha1"}
# A NumPy scalar's parts: its type's dtype class, and the function that makes it, which NumPy 2 has moved.
_SCALAR_TYPES = "?bhilqBHILQefdFD"
_RECONSTRUCT = np.float64(0).__reduce__()[0]
# All that a checkpoint needs besides tensors: its options and its best accuracy.
_ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in _SCALAR_TYPES},
    (_RECONSTRUCT, "numpy.core.multiarray.scalar"),
    (_RECONSTRUCT, "numpy._core.multiarray.scalar"),
]


def import_checkpoint(
    file: Path,
    *,
    out: Path,
    run: str | None = None,
    hash_check: bool = True,
    val: Path | None = None,
    photos: int = 200,
) -> None:
    """Write a weights file from a checkpoint in the reference implementation's naming, and print what was found.

    Args:
        file: `.pth.tar` of pre-training or of a linear probe.
        out: The weights file, `.safetensors`.
        run: The run's name; None: the file's name without suffix.
        hash_check: Refuse a file whose content does not fit the hash in its name.
        val: Validation images, an LMDB or a folder, to try the file's classifier on.
        photos: How many of them.

    Raises:
        UserError: The file is missing, damaged, holds more than data, is no checkpoint of the reference, or does not
            fit its hash; or its classifier does badly on `val`. Nothing is written then.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; download it first, or correct the path")
    if photos < 1:
        raise UserError(f"--photos {photos}: give at least one photo")
    digests = _digests(file)
    print(f"hash     {_compare_hash(file, digests, hash_check)}")
    state = _load_state(file)
    try:
        checkpoint = read_state(state)
    except ValueError as error:
        lines = "\n".join(f"{file}: {line}" for line in str(error).splitlines())
        raise UserError(f"{lines}; give a whole checkpoint of the reference implementation") from None
    ignored = ", ".join(f"{count} of {kind}" for kind, count in checkpoint.ignored.items())
    print(f"method   {checkpoint.method}")
    print(f"network  {checkpoint.arch}, widths {', '.join(map(str, checkpoint.shape['widths']))}")
    print(f"tensors  {len(checkpoint.tensors)} taken, {sum(checkpoint.ignored.values())} ignored ({ignored or 'none'})")
    if val is not None:
        _try_classifier(file, checkpoint, val, photos)
    header = {
        "schema": 1,
        "run": run or file.name.removesuffix(".tar").removesuffix(".pth"),
        "stage": "import",
        "seed": None,
        "method": checkpoint.method,
        **checkpoint.shape,
        "source": file.name,
        "source_sha256": digests["SHA-256"],
    }
    save_weights(out, checkpoint.tensors, header)
    print(f"written  {out}, run {header['run']}")


def _digests(file: Path) -> dict[str, str]:
    """Hexadecimal digests by the name of the hash; the file is read once."""
    hashes = {name: hashlib.new(kind, usedforsecurity=False) for name, kind in _HASHES.items()}
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for digest in hashes.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _compare_hash(file: Path, digests: Mapping[str, str], refuse: bool) -> str:
    """Compare the hash in a file's name, presumably the beginning of its SHA-256, with its content's."""
    match = re.search(r"[-_]([0-9a-fA-F]{8,})\.pth(\.tar)?$", file.name)
    if match is None:
        return "nothing to check: the file's name ends in no hash"
    tail = match[1].lower()
    for name, digest in digests.items():
        if digest.startswith(tail):
            return f"{tail} in the file's name is the beginning of its {name}"
    found = ", ".join(f"{name} {digest[: len(tail)]}" for name, digest in digests.items())
    mismatch = f"{tail} in the file's name fits none of its hashes ({found})"
    if refuse:
        raise UserError(f"{file}: {mismatch}; download it again, or pass --no-hash-check to take it as it is")
    return f"MISMATCH, let pass by --no-hash-check: {mismatch}"


def _load_state(file: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint; of what the file asks to be called, only `_ALLOWED` is."""
    with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes may make the unpickler stumble over anything
            match = re.search(r"GLOBAL (\S+)", str(error))
            if isinstance(error, UnpicklingError) and match:
                raise UserError(
                    f"{file}: asks for {match[1]}, which no checkpoint needs; it was not called; "
                    "take the file from a source that you trust"
                ) from None
            raise UserError(
                f"{file}: not a whole file of torch.save ({type(error).__name__}); download it again"
            ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise UserError(
            f"{file}: holds no state_dict of named tensors; give a checkpoint of the reference implementation"
        )
    return state


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
    classifier = OwnClassifier.from_tensors(backbone, checkpoint.tensors)
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
