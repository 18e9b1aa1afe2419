"""What of COCO a transfer reads, as SHA-256 sums: its checkpoints belong to these contents, wherever they lie."""

import hashlib
import os
from pathlib import Path

from PIL import Image

from slimclr.data.stores.digest import file_sizes, looked_at
from slimclr.files import sha256


def coco_digests(coco: Path) -> dict[str, str]:
    """SHA-256 of COCO's annotation files, and of the names and sizes of its images and the content of some.

    What is missing counts as empty: `slimclr.detection.transfer.check_coco` says so, in a line.

    Args:
        coco: Folder with `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`.

    Returns:
        `train_annotations`, `train_images`, `val_annotations` and `val_images`.

    Raises:
        UserError: An image cannot be looked at.
    """
    digests = {}
    for split in ("train", "val"):
        annotations = coco / f"annotations/instances_{split}2017.json"
        digests[f"{split}_annotations"] = sha256(annotations) if annotations.is_file() else ""
        digests[f"{split}_images"] = _folder_digest(coco / f"{split}2017")
    return digests


def _folder_digest(folder: Path) -> str:
    suffixes = Image.registered_extensions().keys()
    names = sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
        if name[0] != "." and os.path.splitext(name)[1].lower() in suffixes
    )
    digest = hashlib.sha256()
    for name, size in zip(names, file_sizes(folder, names), strict=True):
        digest.update(f"{name}\n{size}\n".encode())
    for index in looked_at(len(names)):
        digest.update(bytes.fromhex(sha256(folder / names[index])))
    return digest.hexdigest()
