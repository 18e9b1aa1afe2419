"""One width of a run as a folder of ordinary files."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimclr.errors import UserError
from slimclr.exporting.card import model_card, read_accuracy
from slimclr.exporting.comparison import some_images
from slimclr.exporting.folder import refuse_to_overwrite, whole_folder
from slimclr.exporting.networks import CONFIG, is_exported
from slimclr.exporting.recalibrated import recalibrated
from slimclr.exporting.source import HeadKind, check_classified, open_source, read_head
from slimclr.exporting.writer import FORMATS, Examples, Taken, Written, size_of, write_format
from slimclr.files import sha256, write_json, write_text
from slimclr.provenance import provenance

CARD = "README.md"
_COMPARED = 4


def export(
    weights_or_run: str | Path,
    out: str | Path,
    *,
    width: float,
    head: HeadKind = "none",
    formats: Sequence[str] = ("torchvision",),
    fold: bool = False,
    recalibrate: str | Path | None = None,
    results: str | Path = "results",
    classifier: str | Path | None = None,
    data: str | Path | None = None,
    calibrate: int = 300,
    val: str | Path | None = None,
    card: bool = True,
    metrics: str | Path | None = None,
    licence: str = "unknown",
    force: bool = False,
) -> None:
    """Write one width as a folder to publish: model.safetensors, config.json, resnet.py, and what is asked for.

    Args:
        weights_or_run: As for `slimclr.load`.
        out: The folder.
        width: One of the trained widths, or with `recalibrate` another.
        head: "none": features; "own": the classifier in the weights file; "probe": the linear probe's.
        formats: Some of torchvision, timm, onnx, int8, pt2, mmdet.
        fold: Fold batch norm into the convolutions.
        recalibrate: Training images for the batch norms of an untrained width.
        results: Folder with pretrain/ and probe/.
        classifier: The probe's classifier.safetensors, where it is not in `results`.
        data: Photos to compare on and to calibrate int8; None: generated ones.
        calibrate: How many of them calibrate.
        val: Labelled images for the accuracy of int8.
        card: Write README.md, the model card.
        metrics: metrics.json with the accuracies for it; None: the probe stage's.
        licence: Of the weights, as the Hugging Face hub names licences.
        force: Replace an earlier export in `out`.

    Raises:
        UserError: Something is missing, or does not fit; then nothing is written.
    """
    started, out = time.time(), Path(out)
    _check(out, formats, force)
    classifier, recalibrate, data, val, metrics = map(_path, (classifier, recalibrate, data, val, metrics))
    source = open_source(weights_or_run, results=Path(results))
    found = read_head(source, head, file=classifier)
    check_classified(source, found, [float(width)])
    source, found, measured = recalibrated(source, found, float(width), recalibrate)
    taken = Taken(source, found, float(width), fold=fold, recalibrated_on=measured)
    accuracy = read_accuracy(source, metrics) if card else None
    examples = Examples(some_images(data, taken.preprocessing, _COMPARED), data, calibrate, val)
    with whole_folder(out) as folder:
        written = {name: write_format(name, taken, folder, examples) for name in ("torchvision", *formats)}
        write_json(folder / CONFIG, _config(taken, written, folder, licence=licence, started=started))
        sizes = {file: (folder / file).stat().st_size for about in written.values() for file in about.files}
        if accuracy is not None:
            write_text(folder / CARD, model_card(taken, written, sizes, accuracy, licence=licence))
    _show(out, taken, written, sizes, compared="generated images" if data is None else str(data))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _check(out: Path, formats: Sequence[str], force: bool) -> None:
    """Refuse unknown formats, and to write over what is there."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: not one of {', '.join(FORMATS)}; name some of these")
    refuse_to_overwrite(out, exported=is_exported(out), force=force)


def _config(
    taken: Taken, written: Mapping[str, Written], folder: Path, *, licence: str, started: float
) -> dict[str, Any]:
    """The content of config.json."""
    source = taken.source
    return {
        "library_name": "slimclr",
        "run": source.run,
        "method": source.header.get("method"),
        "arch": source.backbone.arch,
        "width": taken.width,
        "recalibrated_on": taken.recalibrated_on,
        "network": taken.arguments,
        "out_features": taken.network.out_features,
        "classes": list(taken.classes),
        "preprocessing": taken.preprocessing.document(),
        "params": taken.parameters,
        "macs": taken.multiply_adds(),
        "license": licence,
        "source": {
            "weights_sha256": source.sha256,
            "classifier_sha256": None if taken.classifier is None else taken.classifier.sha256,
            "recipe_sha256": source.header.get("recipe_sha256"),
            "imported_from": source.header.get("source"),
        },
        "formats": {
            name: {
                "files": {file: sha256(folder / file) for file in about.files},
                "difference": about.difference,
                **({} if about.quantised is None else {"accuracy": about.quantised}),
            }
            for name, about in written.items()
        },
        "provenance": provenance(started),
    }


def _show(out: Path, taken: Taken, written: Mapping[str, Written], sizes: Mapping[str, int], *, compared: str) -> None:
    print(f"network    {taken.source.backbone.arch}, width {taken.width}, run {taken.source.run}")
    if taken.recalibrated_on:
        print(f"never trained at this width: batch norms measured on {taken.recalibrated_on:,} images")
    print(f"size       {taken.parameters:,} parameters, {taken.multiply_adds():,} multiply-adds")
    for name, about in written.items():
        files = ", ".join(f"{file} {size_of(sizes[file])}" for file in about.files)
        print(f"{name:<10} {files}; differs by {about.difference:.1e} on {compared}")
        for note in about.notes:
            print(f"{'':<10} {note}")
        if about.quantised is not None:
            said = ", ".join(f"{key} {value}" for key, value in about.quantised.items() if value is not None)
            print(f"{'':<10} {said}")
    print(f"written    {out}")
