"""Writes an LMDB in commits, from the last of which a killed run continues."""

import errno
import json
import os
import shutil
import sys
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from slimclr.data.stores.lmdb import FORMAT, TABLES, UNFINISHED, VERSION, Entry, entry_line, image_name, part_path
from slimclr.errors import UserError
from slimclr.files import fsync

INITIAL_MAP_SIZE = 1 << 30

# Small, so that the disk is never idle; at half the size, a fast disk spends its time on flushes.
_COMMIT_EVERY_BYTES = 1 << 23

# Room in the map for what a commit itself writes: the state, changed pages of the tree, the free list.
_RESERVE = 1 << 20


class LMDBWriter:
    """Writes a database; continues after the last commit of a killed run, if its images belong to this data set.

    Every commit waits for the disk, so that the unfinished file is a valid database after a crash of the machine, too.
    A thread does the writing and the waiting, one commit at a time, while the caller reads on.

    Attributes:
        done: Number of images that were added.
        last: Class and file name of the last one; empty when there is none.

    Args:
        out: The database, one file.
        known: The known first images of the data set, in its order. An unfinished file whose images differ from them
            is discarded.
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
        self._waiting.append((image_name(self.done), data))
        self._held += len(data)
        self._note(entry)

    def commit(self) -> None:
        """Write all added images to disk."""
        self._commit()
        self._commit_before.result()

    def finish(self, *, resized: dict[str, int] | None = None) -> None:
        """Complete the database and give it its name.

        Args:
            resized: How its images were scaled down; None: they are as they were.
        """
        classes = sorted(self._counts)
        counts = [self._counts[name] for name in classes]
        meta = {"format": FORMAT, "version": VERSION, "count": self.done, "classes": classes}
        meta |= {"digest": self._digest.hexdigest()} | ({"resized": resized} if resized else {})
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
        self._write([(name, tables[name]) for name in TABLES], state=None)
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
            text = transaction.get(UNFINISHED) or transaction.get(b"meta")
        if text is None:
            return entries == 0
        state = json.loads(text)
        for entry in islice(known, state["count"]):
            self._note(entry)
        if self.done != state["count"] or self._digest.hexdigest() != state["digest"]:
            return False
        # Killed between the last commit and the renaming: complete, but the data set may have grown since.
        with self._environment.begin(write=True) as transaction:
            for name in TABLES:
                transaction.delete(name)
            transaction.put(UNFINISHED, text)
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
                transaction.delete(UNFINISHED)
            else:
                transaction.put(UNFINISHED, state)
        # A page that was taken and given back in one transaction counts, but is not written.
        if os.path.getsize(self.part) < self._length():
            os.truncate(self.part, self._length())

    def _length(self) -> int:
        return (self._environment.info()["last_pgno"] + 1) * self._page
