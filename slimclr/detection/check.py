"""Both splits of COCO, looked at before training: what is wrong with val would otherwise show after it."""

import codecs
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimclr.detection.annotations import Split
from slimclr.detection.photos import check_photos
from slimclr.errors import UserError

SPLITS = ("train", "val")
_SHOWN = 10


def annotation_file(coco: Path, split: str) -> Path:
    """Path of the instances of `train` or `val`."""
    return coco / "annotations" / f"instances_{split}2017.json"


def check_coco(coco: Path, checked: Path | None = None, *, splits: Sequence[str] = SPLITS) -> list[str]:
    """Look at everything that training and evaluation will need.

    Args:
        coco: Folder with `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`.
        checked: JSON file that remembers which photos were found whole, so that they are not read again; None reads
            them all.
        splits: "train", "val" or both.

    Returns:
        Names of the categories, in the order of the annotation files.

    Raises:
        UserError: Something is missing, not readable, unusable, without annotations, or the files' categories
            differ. A line for each split with all kinds of faults, the first of each and how many there are.
    """
    if not coco.is_dir():
        raise UserError(f"{coco}: no such folder; put COCO 2017 (annotations/, train2017/, val2017/) there")
    contents = {split: _read(coco, split) for split in splits}
    categories = [content.categories for content in contents.values()]
    if categories[0] != categories[-1]:
        raise UserError(f"{coco / 'annotations'}: {_difference(*categories)}; use the files of one release")
    sizes = {
        split: {
            coco / f"{split}2017" / image["file_name"]: (image["width"], image["height"])
            for image in content.images.values()
        }
        for split, content in contents.items()
    }
    photos = check_photos(sizes, checked)
    lines = []
    for split, content in contents.items():
        path = annotation_file(coco, split)
        if content.faults:
            faults = "; ".join(content.faults.lines(content.totals))
            lines.append(f"{path}: {faults}; correct the file, or leave these out of it")
        if photos[split]:
            faults = "; ".join(photos[split].lines({"photo": len(sizes[split])}))
            lines.append(f"{faults}; correct or replace these photos, or leave them out of {path.name}")
    if lines:
        raise UserError("\n".join(lines))
    for split, content in contents.items():
        if not content.instances:
            raise UserError(
                f"{annotation_file(coco, split)}: holds no annotated instance; use the instances_*.json of COCO 2017"
            )
    return [name for _, name in categories[0]]


def _read(coco: Path, split: str) -> Split:
    path, folder = annotation_file(coco, split), coco / f"{split}2017"
    if not path.is_file():
        raise UserError(f"{path}: missing; unpack annotations_trainval2017.zip into {coco}")
    if not folder.is_dir():
        raise UserError(f"{folder}: missing; unpack {split}2017.zip into {coco}")
    text = path.read_bytes()
    if text.startswith(codecs.BOM_UTF8):
        raise UserError(
            f"{path}: begins with a byte-order mark, which pycocotools cannot read; remove it: "
            rf"sed -i '1s/^\xEF\xBB\xBF//' {shlex.quote(str(path))}"
        )
    try:
        content = Split.check(json.loads(text.decode("utf-8")), evaluated=split == "val")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not COCO instances ({type(error).__name__}: {error}); unpack it again") from None
    names = {image["file_name"] for image in content.images.values()}
    present = set(os.listdir(folder))
    missing = sorted(name for name in names - present if not (folder / name).is_file())
    if missing:
        first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(
            f"{folder}: {len(missing):,} of the {len(names):,} photos in {path.name} are missing: {first}; unpack "
            f"{split}2017.zip again"
        )
    return content


def _difference(train: Sequence[tuple[Any, str]], val: Sequence[tuple[Any, str]]) -> str:
    """How two lists of categories differ."""
    said = {
        where: ", ".join(f"{identity} {name}" for identity, name in [pair for pair in of if pair not in other][:_SHOWN])
        for where, of, other in (("train", train, val), ("val", val, train))
    }
    only = " and ".join(f"{pairs} in {where} alone" for where, pairs in said.items() if pairs)
    return f"categories of train and val differ ({only or 'in their order'})"
