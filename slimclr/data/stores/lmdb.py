"""A data set as one LMDB file: cluster file systems are slow with a million small files.

Layout (one file, no lock file):
    b"00000000", b"00000001", ...  the images' bytes, sorted by class and file name
    b"keys"                        JSON list of `<class>/<file name>`
    b"labels", b"sizes"            little-endian int64 arrays, one entry per image
    b"meta"                        JSON {"format": "slimclr-images", "version": 1, "count": int, "classes": [str],
                                   "digest": SHA-256 over keys, sizes and sums}; where the images were scaled down
                                   also "resized": {"shorter_side": int, "quality": int}
    b"sums"                        SHA-1 of every image, 20 bytes each

It is written as `<name>.part` and renamed when it is complete. Until then the entry b"!unfinished" holds the number of
images and their digest, written in the same transaction as the images.
"""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from slimclr.errors import UserError

FORMAT, VERSION = "slimclr-images", 1
T = TypeVar("T")

# The first name in sorted order, so that images can still be appended behind.
UNFINISHED = b"!unfinished"

TABLES = (b"keys", b"labels", b"meta", b"sizes", b"sums")

Entry = tuple[str, int, str]
"""Key, size in bytes and SHA-1 in hexadecimal of an image."""


def part_path(out: Path) -> Path:
    """The path of a database until it is complete."""
    return out.with_name(f"{out.name}.part")


class LMDBImages:
    """Encoded images from an LMDB file (interface: `slimclr.data.stores.base.Images`).

    The database is opened in each process when it first reads, so the object may be forked, or pickled for workers
    that are spawned.

    Attributes:
        classes: Names of the classes; the label is the rank.
        digest: SHA-256 over keys, sizes and SHA-1 of the images, in hexadecimal.
        keys: `<class>/<file name>` of every image.
        labels: int64, (images,).
        resized: How the images were scaled down (`shorter_side` in pixels, `quality` of the JPEGs); None: not at all.

    Raises:
        UserError: No such file, not one of ours, or cut short.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._handle: _Handle | None = None
        try:
            meta = json.loads(self._get(b"meta"))
            if meta["format"] != FORMAT or meta["version"] != VERSION:
                raise ValueError(f"format {meta['format']} version {meta['version']}")
            self.classes: list[str] = meta["classes"]
            self.digest: str = meta["digest"]
            self.resized: dict[str, int] | None = meta.get("resized")
            self.keys: list[str] = json.loads(self._get(b"keys"))
            self.labels = np.frombuffer(self._get(b"labels"), "<i8").astype(np.int64)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: not a data set of ours ({error}); run the convert stage again") from error
        if not len(self.keys) == len(self.labels) == meta["count"]:
            raise UserError(f"{path}: keys, labels and count differ; run the convert stage again")

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def read(self, index: int) -> bytes:
        """The image's bytes, as they were in the archive unless `resized` says otherwise."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._get(image_name(index))

    def size(self, index: int) -> int:
        """The image's length in bytes, without reading it."""
        return self._take(image_name(index), len)

    def tables(self) -> dict[str, Any]:
        """What the database says of its images: int64 arrays `label` and `bytes`, and `sha1`, 20 bytes for each.

        Raises:
            UserError: The tables contradict each other or the images.
        """
        sizes = np.frombuffer(self._get(b"sizes"), "<i8")
        sums = self._get(b"sums")
        meta = json.loads(self._get(b"meta"))
        if not len(sizes) == len(sums) // 20 == len(self):
            raise UserError(f"{self.path}: sizes, sums and count differ; run the convert stage again")
        digest = sha256()
        for index, (key, size) in enumerate(zip(self.keys, sizes, strict=True)):
            digest.update(entry_line((key, size, sums[20 * index : 20 * (index + 1)].hex())))
        if digest.hexdigest() != meta["digest"]:
            raise UserError(f"{self.path}: keys, sizes or sums were changed; run the convert stage again")
        ranks = {wnid: rank for rank, wnid in enumerate(sorted({class_of(key) for key in self.keys}))}
        if list(ranks) != self.classes:
            raise UserError(f"{self.path}: classes and keys differ; run the convert stage again")
        labels = np.fromiter((ranks[class_of(key)] for key in self.keys), np.int64, len(self))
        return {"sha1": sums, "label": labels, "bytes": sizes}

    def _get(self, name: bytes) -> bytes:
        return self._take(name, bytes)

    def _take(self, name: bytes, take: Callable[[memoryview], T]) -> T:
        """Apply `take` to an entry inside the memory map."""
        import lmdb

        try:
            if self._handle is None or self._handle.owner != os.getpid():
                self._handle = _handle(self.path)
            with self._handle.environment.begin(buffers=True) as transaction:
                value = transaction.get(name)
                if value is not None:
                    return take(value)
        except lmdb.Error as error:
            raise UserError(f"{self.path}: not a readable LMDB ({error}); run the convert stage again") from error
        raise UserError(f"{self.path}: no entry {name.decode()!r}, so not of ours; run the convert stage again")


class _Handle:
    """An open database and the process that opened it."""

    def __init__(self, path: Path) -> None:
        import lmdb

        self.owner = os.getpid()
        # With the kernel's read-ahead: without it a cold disk would deliver an image's 27 pages one by one.
        self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
        # Reading beyond the end of a memory-mapped file would kill the process.
        length = (self.environment.info()["last_pgno"] + 1) * self.environment.stat()["psize"]
        if path.stat().st_size < length:
            self.environment.close()
            raise UserError(
                f"{path}: truncated ({path.stat().st_size:,} of {length:,} bytes); run the convert stage again"
            )


# LMDB refuses to open a file twice in one process, so readers of the same file share its handle.
_HANDLES: WeakValueDictionary[tuple[int, int], _Handle] = WeakValueDictionary()


def _handle(path: Path) -> _Handle:
    """This process's handle of a database."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the convert stage first, or correct the path")
    # Of the file and not of its path, where another database may lie by now.
    status = path.stat()
    name = (status.st_dev, status.st_ino)
    handle = _HANDLES.get(name)
    if handle is None or handle.owner != os.getpid():
        if handle is not None:
            # Came with a fork: closing it here leaves the parent's untouched.
            handle.environment.close()
        handle = _HANDLES[name] = _Handle(path)
    return handle


def entry_line(entry: Entry) -> bytes:
    """The bytes that an image adds to a data set's digest."""
    key, size, checksum = entry
    return f"{key}\n{size} {checksum}\n".encode()


def class_of(key: str) -> str:
    """The class of the image `<class>/<file name>`."""
    return key.partition("/")[0]


def image_name(index: int) -> bytes:
    """The name under which an image lies in the database."""
    return b"%08d" % index
