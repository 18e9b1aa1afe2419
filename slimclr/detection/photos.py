"""Whether COCO's photos are whole and of the size that the annotations say, before anything is trained on them."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from slimclr.data.images.check import describe
from slimclr.detection.annotations import Faults
from slimclr.files import write_json
from slimclr.lock import exclusive_lock
from slimclr.progress import progress

# They wait for the disk, or for a network file system.
_THREADS, _AT_ONCE = 16, 1024
# EXIF orientations that ask for a quarter turn.
_TURNED = (5, 6, 7, 8)
R = TypeVar("R")

Photos = Mapping[Path, tuple[int, int]]
"""Width and height that the annotations give for each photo."""


def check_photos(photos: Mapping[str, Photos], checked: Path | None) -> dict[str, Faults]:
    """Read every photo's header and look for its end; photos that were found whole before are not read again.

    Args:
        photos: The photos of each split.
        checked: JSON file that remembers which photos were found whole; None remembers nothing. Processes that share
            it wait for the first one.

    Returns:
        What is wrong, by split.
    """
    if checked is None:
        return {split: _check(split, of_split) for split, of_split in photos.items()}
    with exclusive_lock(checked.with_name(f".{checked.name}.lock"), patience=math.inf):
        digest = _digest(photos)
        if _remembered(checked) == digest:
            return {split: Faults() for split in photos}
        faults = {split: _check(split, of_split) for split, of_split in photos.items()}
        if not any(faults.values()):
            write_json(checked, {"schema": 1, "photos": sum(map(len, photos.values())), "digest": digest})
    return faults


def _check(split: str, photos: Photos) -> Faults:
    faults = Faults()
    with progress(f"check {split}2017", len(photos), "photos") as advance:
        for path, fault in zip(photos, _in_threads(_fault, list(photos.items())), strict=True):
            faults.add("photo", path, fault)
            advance(1)
    return faults


def _fault(photo: tuple[Path, tuple[int, int]]) -> str | None:
    """What is wrong with a photo."""
    path, (width, height) = photo
    try:
        columns, rows, _, _, orientation = describe(path.read_bytes(), "structure")
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    if orientation not in _TURNED:
        return None if (columns, rows) == (width, height) else "another size than the annotations say"
    # mmcv turns photos as EXIF asks, as whoever drew the boxes saw them.
    if (rows, columns) == (width, height):
        return None
    return "turned by EXIF, and the annotations give another size than the turned photo has"


def _digest(photos: Mapping[str, Photos]) -> str:
    """SHA-256 over names, wanted sizes, file sizes and times of change, in hexadecimal."""
    digest = hashlib.sha256()
    for of_split in photos.values():
        entries = list(of_split.items())
        for (path, size), status in zip(entries, _in_threads(_status, entries), strict=True):
            digest.update(json.dumps([str(path), size, status]).encode() + b"\n")
    return digest.hexdigest()


def _status(photo: tuple[Path, tuple[int, int]]) -> tuple[int, int] | None:
    try:
        status = os.stat(photo[0])
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _remembered(checked: Path) -> Any:
    try:
        return json.loads(checked.read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _in_threads(
    function: Callable[[tuple[Path, tuple[int, int]]], R], photos: Sequence[tuple[Path, tuple[int, int]]]
) -> Iterator[R]:
    """Results in order; not all photos wait in the pool's queue at once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(photos), _AT_ONCE):
            yield from pool.map(function, photos[start : start + _AT_ONCE])
