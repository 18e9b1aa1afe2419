"""The content of a data set as one SHA-256, by which checkpoints and results know their data, whatever its path.

An LMDB stores its digest, over the images' keys, sizes and SHA-1. A folder's manifest gives the same digest, so that a
folder and the LMDB made from it count as the same data set. Without either, the digest is over the names, classes and
sizes of all images and the content of some: reading every byte would take an hour at each start.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from slimclr.data.manifest import MANIFEST, Manifest
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages, entry_line
from slimclr.data.stores.recordio import RecordImages
from slimclr.errors import UserError

# Images whose content is read, evenly spread.
_LOOKED_AT = 1000
# A network disk has a long latency, but serves many requests in parallel.
_THREADS = 16


def images_digest(images: FolderImages | LMDBImages | RecordImages) -> str:
    """SHA-256 of a data set's content, in hexadecimal; it does not depend on the path.

    Args:
        images: What `slimclr.data.stores.open_images` returned.

    Raises:
        UserError: An image whose content is read is not readable.
    """
    if isinstance(images, LMDBImages):
        return images.digest
    if isinstance(images, RecordImages):
        kind, sizes = "recordio", images.sizes()
    else:
        recorded = _recorded(images)
        if recorded is not None:
            return recorded
        kind, sizes = "folder", file_sizes(images.root, images.keys)
    digest = hashlib.sha256(f"{kind}\n".encode())
    for key, label, size in zip(images.keys, images.labels.tolist(), sizes, strict=True):
        digest.update(f"{key}\n{label} {size}\n".encode())
    with ThreadPoolExecutor(_THREADS) as pool:
        for data in pool.map(images.read, looked_at(len(images))):
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def looked_at(count: int) -> list[int]:
    """Indices of the images whose content is read, out of `count`."""
    return np.unique(np.linspace(0, count - 1, _LOOKED_AT, dtype=np.int64)).tolist() if count else []


def file_sizes(root: Path, names: Sequence[str]) -> list[int]:
    """Sizes in bytes of files below a folder.

    Args:
        root: The folder.
        names: Their paths below it.

    Raises:
        UserError: One cannot be looked at.
    """

    def sizes(start: int) -> list[int]:
        return [_size(root / name) for name in names[start : start + _LOOKED_AT]]

    with ThreadPoolExecutor(_THREADS) as pool:
        return [size for part in pool.map(sizes, range(0, len(names), _LOOKED_AT)) for size in part]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; extract the archive again, or make it readable") from error


def _recorded(images: FolderImages) -> str | None:
    """The digest from a folder's manifest; None if there is none or it does not describe the images."""
    path = images.root / MANIFEST
    if not path.is_file():
        return None
    some = set(looked_at(len(images)))
    digest = hashlib.sha256()
    sums: dict[int, str] = {}
    try:
        rows = Manifest(path)
        if len(rows) != len(images):
            return None
        for index, (key, row) in enumerate(zip(images.keys, rows, strict=True)):
            if key != row.key:
                return None
            digest.update(entry_line((row.key, row.bytes, row.sha1)))
            if index in some:
                sums[index] = row.sha1
    except UserError:  # damaged; training does not need a manifest
        return None
    return digest.hexdigest() if _as_recorded(images, sums) else None


def _as_recorded(images: FolderImages, sums: Mapping[int, str]) -> bool:
    def right(index: int) -> bool:
        return hashlib.sha1(images.read(index), usedforsecurity=False).hexdigest() == sums[index]

    with ThreadPoolExecutor(_THREADS) as pool:
        return all(pool.map(right, sums))
