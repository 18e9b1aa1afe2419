"""A data set as one LMDB file, which a cluster's file system likes better than a million small files.

Layout (one file, no lock file):
    b"00000000", b"00000001", ...  the images' bytes, unchanged, in the manifest's order (sorted by key)
    b"keys"                        JSON list of `<class>/<file name>`
    b"labels", b"sizes"            little-endian int64 arrays, one entry per image
    b"meta"                        JSON {"format": "slimclr-images", "version": 1, "count": int, "classes": [str]}
"""

import json
import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from slimclr.errors import UserError
from slimclr.files import atomic_path
from slimclr.progress import progress

FORMAT, VERSION = "slimclr-images", 1
_INITIAL_MAP_SIZE = 1 << 28
_COMMIT_EVERY_BYTES = 1 << 28


def write_lmdb(folder: Path, manifest: Path, out: Path, *, map_size: int = _INITIAL_MAP_SIZE) -> None:
    """Put the images of a folder into one LMDB file, whole or not at all.

    Args:
        folder: Folder of one folder per class.
        manifest: What `slimclr.data.archives.write_manifest` wrote for it.
        out: The database, one file.
        map_size: Bytes of address space to begin with; doubled as often as needed.

    Raises:
        UserError: The manifest is missing or damaged, or a file is missing or not as long as the manifest says.
    """
    import lmdb
    import pandas

    try:
        table = pandas.read_parquet(manifest, columns=["key", "class", "label", "bytes"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{manifest}: no readable manifest ({error}); run the extract stage again") from error
    classes = sorted(set(table["class"]))
    keys, sizes = table["key"].tolist(), table["bytes"].tolist()

    with atomic_path(out) as part:
        # lock=False leaves no lock file behind; nobody else knows the temporary name.
        environment = lmdb.open(str(part), subdir=False, map_size=map_size, lock=False, meminit=False)
        try:
            with progress(f"write {out.name}", len(keys)) as advance:
                batch: list[tuple[bytes, bytes]] = []
                held = 0
                for index, (key, size) in enumerate(zip(keys, sizes, strict=True)):
                    batch.append((_name(index), _read_checked(folder / key, size)))
                    held += size
                    if held >= _COMMIT_EVERY_BYTES:
                        _put(environment, batch)
                        batch, held = [], 0
                    advance(1)
            meta = {"format": FORMAT, "version": VERSION, "count": len(keys), "classes": classes}
            batch += [
                (b"keys", json.dumps(keys).encode()),
                (b"labels", table["label"].to_numpy("<i8").tobytes()),
                (b"meta", json.dumps(meta).encode()),
                (b"sizes", table["bytes"].to_numpy("<i8").tobytes()),
            ]
            _put(environment, batch)
            environment.sync(True)
        finally:
            environment.close()


class LMDBImages:
    """Encoded images out of an LMDB file; the same interface as `slimclr.data.folder.FolderImages`.

    The database is opened in each process when it first reads, so the object may be forked, or pickled for workers
    that are spawned.

    Attributes:
        classes: Names of the classes; the label is the rank.
        keys: `<class>/<file name>` of every image.
        labels: int64, (images,).

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
        """The image's bytes as they were in the archive."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._get(_name(index))

    def _get(self, name: bytes) -> bytes:
        import lmdb

        try:
            if self._handle is None or self._handle.owner != os.getpid():
                self._handle = _handle(self.path)
            with self._handle.environment.begin() as transaction:
                value = transaction.get(name)
        except lmdb.Error as error:
            raise UserError(f"{self.path}: not a readable LMDB ({error}); run the convert stage again") from error
        if value is None:
            raise UserError(f"{self.path}: no entry {name.decode()!r}, so not of ours; run the convert stage again")
        return value


class _Handle:
    """An open database and the process that opened it."""

    def __init__(self, path: Path) -> None:
        import lmdb

        self.owner = os.getpid()
        self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        # Reading beyond the end of a memory-mapped file would kill the process.
        length = (self.environment.info()["last_pgno"] + 1) * self.environment.stat()["psize"]
        if path.stat().st_size < length:
            self.environment.close()
            raise UserError(
                f"{path}: truncated ({path.stat().st_size:,} of {length:,} bytes); run the convert stage again"
            )


# LMDB refuses to open a file twice in one process, so readers of the same file share its handle.
_HANDLES: WeakValueDictionary[str, _Handle] = WeakValueDictionary()


def _handle(path: Path) -> _Handle:
    """This process's handle of a database."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the convert stage first, or correct the path")
    name = os.path.realpath(path)
    handle = _HANDLES.get(name)
    if handle is None or handle.owner != os.getpid():
        if handle is not None:
            # Came with a fork: closing it here leaves the parent's untouched.
            handle.environment.close()
        handle = _HANDLES[name] = _Handle(path)
    return handle


def _name(index: int) -> bytes:
    return b"%08d" % index


def _read_checked(path: Path, size: int) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: in the manifest, but missing; run the extract stage again") from error
    if len(data) != size:
        raise UserError(f"{path}: {len(data):,} bytes, the manifest says {size:,}; run the extract stage again")
    return data


def _put(environment: Any, batch: list[tuple[bytes, bytes]]) -> None:
    """Write entries in one transaction; a transaction that outgrows the map is repeated in one twice as large."""
    import lmdb

    while True:
        try:
            with environment.begin(write=True) as transaction:
                for name, value in batch:
                    # Entries come in the order of their names (digits before letters): appending fills every page.
                    transaction.put(name, value, append=True)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
