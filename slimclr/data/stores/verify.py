"""Compares a data set with its manifest."""

import hashlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slimclr.data.manifest import MANIFEST, Manifest
from slimclr.data.stores import open_images
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages
from slimclr.errors import UserError
from slimclr.progress import progress


def verify(path: Path, *, manifest: Path | None = None, content: bool = False) -> str:
    """Check count, keys, labels and sizes of a data set, and on request every byte.

    Args:
        path: An LMDB, RecordIO files or a folder of one folder per class.
        manifest: What it must hold; None: a folder's own manifest, or an LMDB's own tables.
        content: Compare the SHA-1 of every image, too.

    Returns:
        A line that says what was checked.

    Raises:
        UserError: It cannot be opened, or something is wrong.
    """
    images = open_images(path)
    if manifest is None and isinstance(images, FolderImages):
        manifest = path / MANIFEST
    sizes: Callable[[int], int] = lambda index: len(images.read(index))  # noqa: E731
    if isinstance(images, LMDBImages):
        sizes = images.size
        tables = images.tables()
        _compare_labels(path, images, tables, "the database's own tables")
    elif isinstance(images, FolderImages):
        root, keys = images.root, images.keys
        sizes = lambda index: (root / keys[index]).stat().st_size  # noqa: E731
    elif manifest is None:
        raise UserError(f"{path}: says nothing of its images' sizes; name the manifest with --manifest")
    resized = isinstance(images, LMDBImages) and images.resized is not None
    if manifest is not None:
        known = _from_manifest(manifest, path, images)
        _compare_labels(path, images, known, str(manifest))
        # Sizes and sums of images that were scaled down are the database's own.
        tables = tables if resized else known
    wrong: list[str] = []
    with progress(f"verify {path.name}", len(images)) as advance:
        for index, key in enumerate(images.keys):
            wrong += _look(images, index, key, sizes, tables, content)
            advance(1)
    if wrong:
        more = f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
        raise UserError(f"{path}: {'; '.join(wrong[:3])}{more}; run the stage that made it again")
    what = "keys, labels, sizes and content" if content else "keys, labels and sizes"
    against = manifest if manifest is not None and not resized else "its own tables"
    against = f"{against}, keys and labels with {manifest}" if manifest is not None and resized else against
    return f"{path}: {len(images):,} images in {len(images.classes):,} classes; {what} agree with {against}"


def _look(
    images: Any, index: int, key: str, sizes: Callable[[int], int], tables: dict[str, Any], content: bool
) -> list[str]:
    """What is wrong with one image."""
    try:
        size, expected = sizes(index), int(tables["bytes"][index])
        if size != expected:
            return [f"{key} has {size:,} bytes instead of {expected:,}"]
        checksum = hashlib.sha1(images.read(index), usedforsecurity=False).hexdigest() if content else None
    except OSError as error:
        return [f"{key}: {error.strerror}"]
    known = tables["sha1"][20 * index : 20 * (index + 1)].hex()
    if checksum is not None and checksum != known:
        return [f"{key} has other content (SHA-1 {checksum} instead of {known})"]
    return []


def _from_manifest(manifest: Path, path: Path, images: Any) -> dict[str, Any]:
    """The manifest in the form of `LMDBImages.tables`; the keys are compared here, before any image is read."""
    rows = Manifest(manifest)
    if len(images) != len(rows):
        raise UserError(
            f"{path}: {len(images):,} images, {manifest} names {len(rows):,}; run the stage that made it again"
        )
    labels, sizes, sums = array("q"), array("q"), bytearray()
    for key, row in zip(images.keys, rows, strict=True):
        if key != row.key:
            raise UserError(
                f"{path}: has {key} where {manifest} names {row.key}; these do not belong together, or run the stage "
                "that made it again"
            )
        try:
            labels.append(row.label)
            sizes.append(row.bytes)
            sums += int(row.sha1, 16).to_bytes(20)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{manifest}: label, size or SHA-1 of {key}: {error}; run the extract stage again"
            ) from error
    return {"sha1": sums, "label": np.frombuffer(labels, np.int64), "bytes": np.frombuffer(sizes, np.int64)}


def _compare_labels(path: Path, images: Any, tables: dict[str, Any], what: str) -> None:
    if not np.array_equal(images.labels, tables["label"]):
        raise UserError(f"{path}: the labels are not those of {what}; run the stage that made it again")
