"""COCO's average precision of a kept detector, without a training."""

import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import ConfigDict

from slimclr import results
from slimclr.detection.check import annotation_file, check_coco
from slimclr.detection.content import coco_digests
from slimclr.detection.evaluation import measure, validation_loader
from slimclr.detection.kept import build_kept
from slimclr.detection.kept_files import TENSORS, Kept, read_kept
from slimclr.detection.pictures import write_pictures
from slimclr.errors import UserError
from slimclr.files import sha256, write_json
from slimclr.nn.placement import allow_tf32
from slimclr.progress import progress


def evaluate_detector(
    detector: Path,
    *,
    coco: Path,
    widths: Sequence[float] | None = None,
    workers: int = 4,
    gpus: int = 0,
    tf32: bool = True,
    out: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Print box and mask AP of every width on val2017, and write all figures as JSON.

    Args:
        detector: `detector.safetensors` of a transfer, or its folder.
        coco: Folder with `annotations/instances_val2017.json` and `val2017/`; nothing else of it is read.
        widths: Widths; None: all.
        workers: Loader processes.
        gpus: 1, or 0 for the CPU.
        tf32: A GPU's convolutions and matrix products may use TF32.
        out: JSON to write.
        pictures: Folder for a picture per width of what it sees on a few photos.

    Raises:
        UserError: A file is missing or unusable, or detector, categories and widths do not fit each other.
    """
    started = time.time()
    kept = read_kept(detector)
    model = build_kept(kept)
    wanted = model.widths if widths is None else tuple(sorted(set(widths), reverse=True))
    _check(kept, model.widths, wanted, coco)
    allow_tf32(tf32)
    model.to("cuda" if gpus else "cpu")
    loader = validation_loader(ConfigDict(kept.config), coco, workers=workers)
    with progress("evaluate", len(loader), "photos") as advance:
        found = measure(
            model, loader, annotations=annotation_file(coco, "val"), widths=wanted, after_batch=lambda _: advance(1)
        )
    for key, values in found.items():
        said = ", ".join(f"{name} {'undefined' if value is None else value}" for name, value in values.items())
        print(f"{key:<5} {said}", flush=True)
    if pictures is not None:
        write_pictures(pictures, model, loader.dataset)
    if out is not None:
        digests = {name: digest for name, digest in coco_digests(coco).items() if name.startswith("val")}
        document = results.document(
            "evaluate",
            run=kept.name,
            seed=None,
            recipe=None,
            data=digests,
            weights_sha256=sha256(kept.folder / TENSORS),
            started=started,
            images=len(loader),
            widths=found,
        )
        write_json(out, document)


def _check(kept: Kept, trained: Sequence[float], wanted: Sequence[float], coco: Path) -> None:
    """Refuse widths that were not trained, and photos of other categories."""
    file = kept.folder / TENSORS
    for width in wanted:
        if width not in trained:
            known = ", ".join(map(str, trained))
            raise UserError(f"{file}: was not trained at width {width}; its widths are {known}")
    categories = check_coco(coco, splits=["val"])
    if categories != kept.classes:
        raise UserError(
            f"{annotation_file(coco, 'val')}: its {len(categories)} categories are not the {len(kept.classes)} of "
            f"{file}, in their order; give the data that it was trained on"
        )
