"""A data set as one LMDB file, which a cluster's file system likes better than a million small files.

Layout (one file, no lock file):
    b"00000000", b"00000001", ...  the images' bytes, unchanged, sorted by class and file name
    b"keys"                        JSON list of `<class>/<file name>`
    b"labels", b"sizes"            little-endian int64 arrays, one entry per image
    b"meta"                        JSON {"format": "slimclr-images", "version": 1, "count": int, "classes": [str],
                                   "digest": SHA-256 over keys, sizes and sums}
    b"sums"                        SHA-1 of every image, 20 bytes each

It grows under `<name>.part` and is renamed when it is whole. Until then b"!unfinished" says how many images are in it
and what their digest is, in the same transaction as the images themselves.
"""

import errno
import json
import os
import shutil
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha1, sha256
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from slimclr.data.lock import alone
from slimclr.data.manifest import Manifest
from slimclr.data.space import check_space
from slimclr.errors import UserError
from slimclr.files import fsync
from slimclr.progress import progress

FORMAT, VERSION = "slimclr-images", 1
INITIAL_MAP_SIZE = 1 << 30
# Small, so that the disk always has something to write; with half of it, a fast disk spends its time on flushes.
_COMMIT_EVERY_BYTES = 1 << 23
# Room in the map for what a commit itself writes: the state, changed pages of the tree, the free list.
_RESERVE = 1 << 20
_READ_AHEAD_BYTES, _READ_AHEAD_FILES, _READERS = 1 << 25, 64, 4
# The first name in sorted order, so that images can still be appended behind.
_UNFINISHED = b"!unfinished"
_TABLES = (b"keys", b"labels", b"meta", b"sizes", b"sums")

T = TypeVar("T")
Entry = tuple[str, int, str]
"""Key, size in bytes and SHA-1 in hexadecimal of an image."""


class LMDBWriter:
    """Writes a database; begins where a killed run stopped, if its images are the first ones of this data set.

    Every commit waits for the disk, so that the unfinished file is a valid database after a crash of the machine, too.
    A thread does the writing and the waiting, one commit at a time, while the caller reads on.

    Attributes:
        done: Number of images that were added.
        last: Class and file name of the last one; empty when there is none.

    Args:
        out: The database, one file.
        known: The first images of the data set, in its order, as far as they are known: what an unfinished file holds
            is compared with them, and one that holds anything else is begun again.
        map_size: Bytes of address space to begin with; doubled as often as needed.

    Raises:
        UserError: The disk is full.
    """

    def __init__(self, out: Path, known: Iterable[Entry], *, map_size: int = INITIAL_MAP_SIZE) -> None:
        self.out, self.part, self.map_size = out, part_path(out), map_size
        out.parent.mkdir(parents=True, exist_ok=True)
        import lmdb

        self._thread = ThreadPoolExecutor(1, "write-lmdb")
        self._forget()
        try:
            try:
                self._open()
                usable = self._goes_on(known)
            except lmdb.Error:
                usable = False
            if not usable:
                print(f"{self.part}: holds other images or is damaged; begun again", file=sys.stderr, flush=True)
                self._close()
                self.part.unlink(missing_ok=True)
                self._forget()
                self._open()
        except lmdb.Error as error:
            raise self._in_one_line(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import lmdb

        self._thread.shutdown()
        self._close()
        if isinstance(error, lmdb.Error):
            raise self._in_one_line(error) from error

    def add(self, entry: Entry, data: bytes) -> None:
        """Append an image.

        Args:
            entry: Key, size and SHA-1.
            data: Its bytes.
        """
        if self._held + len(data) > _COMMIT_EVERY_BYTES:
            self._commit()
        self._waiting.append((_name(self.done), data))
        self._held += len(data)
        self._note(entry)

    def commit(self) -> None:
        """Get what was added onto the disk."""
        self._commit()
        self._commit_before.result()

    def finish(self) -> None:
        """Complete the database and give it its name."""
        classes = sorted(self._counts)
        counts = [self._counts[name] for name in classes]
        meta = {"format": FORMAT, "version": VERSION, "count": self.done, "classes": classes}
        meta["digest"] = self._digest.hexdigest()
        labels = np.repeat(np.arange(len(counts), dtype="<i8"), counts)
        sizes = np.frombuffer(self._sizes, np.int64).astype("<i8")
        self._keys += b"]" if self._keys else b"[]"
        tables: dict[bytes, bytes | bytearray] = {
            b"keys": self._keys,
            b"labels": labels.tobytes(),
            b"meta": json.dumps(meta).encode(),
            b"sizes": sizes.tobytes(),
            b"sums": self._sums,
        }
        self.commit()
        self._write([(name, tables[name]) for name in _TABLES], state=None)
        self._environment.sync(True)
        fsync(self.part)
        self.part.replace(self.out)
        fsync(self.out.parent)

    def _in_one_line(self, error: Exception) -> UserError:
        # LMDB calls a write that a full disk cut short an input/output error.
        free = shutil.disk_usage(self.part.parent).free
        if os.strerror(errno.ENOSPC) in str(error) or free < 2 * _COMMIT_EVERY_BYTES:
            return UserError(
                f"{self.part}: the disk is full; free space and run this stage again, it goes on from here"
            )
        return UserError(f"{self.part}: {error}; remove it and run this stage again")

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()

    def _forget(self) -> None:
        self.done, self.last, self._held = 0, ("", ""), 0
        self._digest = sha256()
        # 1.28 million strings would take 100 MB: they are kept as the JSON text that they become.
        self._keys, self._sizes, self._sums = bytearray(), array("q"), bytearray()
        self._counts: dict[str, int] = {}
        self._environment: Any = None
        self._waiting: list[tuple[bytes, bytes]] = []
        self._commit_before: Future[None] = Future()
        self._commit_before.set_result(None)

    def _note(self, entry: Entry) -> None:
        key, size, checksum = entry
        name, _, file = key.partition("/")
        if (name, file) <= self.last:
            raise UserError(f"{key}: the images are not sorted by class and name; run the extract stage again")
        self.last = (name, file)
        self._counts[name] = self._counts.get(name, 0) + 1
        self._digest.update(entry_line(entry))
        self._keys += (b", " if self._keys else b"[") + json.dumps(key).encode()
        self._sizes.append(size)
        self._sums += bytes.fromhex(checksum)
        self.done += 1

    def _open(self) -> None:
        import lmdb

        # One flush per commit instead of two: a crash of the machine may undo the last commit, no more.
        self._environment = lmdb.open(
            str(self.part), subdir=False, map_size=self.map_size, lock=False, meminit=False, metasync=False
        )
        self._page = self._environment.stat()["psize"]
        while self.map_size < self._length() + 2 * _RESERVE:
            self.map_size *= 2
        self._environment.set_mapsize(self.map_size)

    def _goes_on(self, known: Iterable[Entry]) -> bool:
        """Take over what is in the file; False when it cannot be."""
        # Reading beyond the end of a memory-mapped file would kill the process.
        if self.part.stat().st_size < self._length():
            return False
        with self._environment.begin() as transaction:
            entries = transaction.stat()["entries"]
            text = transaction.get(_UNFINISHED) or transaction.get(b"meta")
        if text is None:
            return entries == 0
        state = json.loads(text)
        for entry in islice(known, state["count"]):
            self._note(entry)
        if self.done != state["count"] or self._digest.hexdigest() != state["digest"]:
            return False
        # Killed between the last commit and the renaming: complete, but the data set may have grown since.
        with self._environment.begin(write=True) as transaction:
            for name in _TABLES:
                transaction.delete(name)
            transaction.put(_UNFINISHED, text)
        return True

    def _commit(self) -> None:
        """Let the thread write what was added, once the commit before has got onto the disk."""
        self._commit_before.result()
        state = json.dumps({"count": self.done, "digest": self._digest.hexdigest()}).encode()
        self._commit_before = self._thread.submit(self._write, self._waiting, state)
        self._waiting, self._held = [], 0

    def _write(self, entries: Sequence[tuple[bytes, bytes | bytearray]], state: bytes | None) -> None:
        """Append entries in one transaction, with the state of the unfinished database; None says that it is whole."""
        # The map is enlarged before it is full, as a transaction that fills it would be lost. An entry takes whole
        # pages, and one for its share of the tree above them.
        needed = sum((len(value) // self._page + 2) * self._page for _, value in entries) + 2 * _RESERVE
        while self.map_size < self._length() + needed:
            self.map_size *= 2
        self._environment.set_mapsize(self.map_size)
        with self._environment.begin(write=True) as transaction:
            for name, value in entries:
                transaction.put(name, value, append=True)
            if state is None:
                transaction.delete(_UNFINISHED)
            else:
                transaction.put(_UNFINISHED, state)
        # A page that was taken and given back in one transaction counts, but is not written.
        if os.path.getsize(self.part) < self._length():
            os.truncate(self.part, self._length())

    def _length(self) -> int:
        return (self._environment.info()["last_pgno"] + 1) * self._page


def part_path(out: Path) -> Path:
    """Where a database grows until it is whole."""
    return out.with_name(f"{out.name}.part")


def write_lmdb(folder: Path, manifest: Path, out: Path, *, map_size: int = INITIAL_MAP_SIZE) -> None:
    """Put the images of a folder into one LMDB file; goes on where a killed run stopped.

    Args:
        folder: Folder of one folder per class.
        manifest: What `slimclr.data.manifest.write_manifest` wrote for it.
        out: The database, one file.
        map_size: Bytes of address space to begin with; doubled as often as needed.

    Raises:
        UserError: The manifest is missing or damaged, a file is missing or not what the manifest says, or the disk is
            too small.
    """
    rows = Manifest(manifest)

    def entries() -> Iterator[Entry]:
        return ((row.key, row.bytes, row.sha1) for row in rows)

    lock = out.with_name(f".{out.name}.lock")
    with alone(lock):
        part = part_path(out)
        written = part.stat().st_blocks * 512 if part.exists() else 0
        check_space(out.parent, sum(size + 4096 for _, size, _ in entries()) - written)
        with (
            LMDBWriter(out, entries(), map_size=map_size) as writer,
            progress(f"write {out.name}", len(rows)) as advance,
        ):
            advance(writer.done)
            for entry, data in _contents(folder, islice(entries(), writer.done, None)):
                writer.add(entry, data)
                advance(1)
            writer.finish()
        lock.unlink()


def _contents(folder: Path, entries: Iterator[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """The files of a data set, checked, in order; a few threads read ahead, as opening a file takes long."""
    waiting: deque[tuple[Entry, Future[bytes]]] = deque()
    held = 0
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(_read_checked, folder / entry[0], entry[1], entry[2])))
                held += entry[1]
                while held > _READ_AHEAD_BYTES or len(waiting) > _READ_AHEAD_FILES:
                    first, data = waiting.popleft()
                    held -= first[1]
                    yield first, data.result()
            for first, data in waiting:
                yield first, data.result()
        finally:
            pool.shutdown(cancel_futures=True)


class LMDBImages:
    """Encoded images out of an LMDB file; the same interface as `slimclr.data.folder.FolderImages`.

    The database is opened in each process when it first reads, so the object may be forked, or pickled for workers
    that are spawned.

    Attributes:
        classes: Names of the classes; the label is the rank.
        digest: SHA-256 over keys, sizes and check sums of the images, in hexadecimal: what the data set holds.
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
            self.digest: str = meta["digest"]
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

    def size(self, index: int) -> int:
        """The image's length in bytes, without reading it."""
        return self._take(_name(index), len)

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
        ranks = {wnid: rank for rank, wnid in enumerate(sorted({_class_of(key) for key in self.keys}))}
        if list(ranks) != self.classes:
            raise UserError(f"{self.path}: classes and keys differ; run the convert stage again")
        labels = np.fromiter((ranks[_class_of(key)] for key in self.keys), np.int64, len(self))
        return {"sha1": sums, "label": labels, "bytes": sizes}

    def _get(self, name: bytes) -> bytes:
        return self._take(name, bytes)

    def _take(self, name: bytes, take: Callable[[memoryview], T]) -> T:
        """What `take` makes of an entry while it lies in the memory map."""
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
    """What an image adds to a data set's digest."""
    key, size, checksum = entry
    return f"{key}\n{size} {checksum}\n".encode()


def _class_of(key: str) -> str:
    return key.partition("/")[0]


def _name(index: int) -> bytes:
    return b"%08d" % index


def _read_checked(path: Path, size: int, checksum: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: in the manifest, but missing; run the extract stage again") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it readable") from error
    if len(data) != size:
        raise UserError(f"{path}: {len(data):,} bytes, the manifest says {size:,}; run the extract stage again")
    if sha1(data, usedforsecurity=False).hexdigest() != checksum:
        raise UserError(f"{path}: content changed since the manifest was written; run the extract stage again")
    return data
