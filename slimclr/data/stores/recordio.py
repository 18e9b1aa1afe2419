"""A data set as RecordIO, the three files of mxnet: read here without mxnet (`recordio_writer` writes it).

    train.rec   records; each starts at a multiple of 4 bytes and is one or several parts: magic number, a word with the
                kind of part (3 bits) and its length (29 bits), the content, zeros up to a multiple of 4. Where the
                content itself has the magic number at a multiple of 4, the writer leaves it out and begins a new part.
                The content is the header (flag, label, id, id2), as many float32 labels as flag says, the image.
    train.idx   a line `<id> TAB <offset in train.rec>` per record
    train.lst   a line `<id> TAB <label> TAB <class>/<file name>` per record, in the data set's order

Source: dmlc-core's recordio.h and mxnet's python/mxnet/recordio.py, release 1.9.1.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from slimclr.errors import UserError

MAGIC = struct.pack("<I", 0xCED7230A)
WHOLE, FIRST, MIDDLE, LAST = range(4)
_WORD = struct.Struct("<I")
_PART = len(MAGIC) + _WORD.size
_LENGTH_BITS = 29
_HEADER = struct.Struct("<IfQQ")
# Records that are checked on opening; checking all 1.3 million would take a network disk many minutes.
_LOOKED_AT = 1000
_AGAIN = "write the RecordIO files again"


class RecordImages:
    """Encoded images from RecordIO files (interface: `slimclr.data.stores.base.Images`).

    The file is opened in each process when it first reads, so the object may be forked, or pickled for workers that are
    spawned. Opening checks that the three files belong together; reading checks the record itself.

    Attributes:
        classes: Names of the classes by label, from the keys.
        keys: `<class>/<file name>` of every image.
        labels: int64, (images,).

    Raises:
        UserError: A file is missing or damaged, or they do not fit each other.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: IO[bytes] | None = None
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; write the RecordIO files first, or correct the path")
        lst, idx = self.path.with_suffix(".lst"), self.path.with_suffix(".idx")
        rows = [(int(row[0]), int(float(row[1])), row[-1]) for row in _rows(lst, 3)]
        offsets = {int(row[0]): int(row[1]) for row in _rows(idx, 2)}
        if not rows:
            raise UserError(f"{lst}: empty; {_AGAIN}")
        if len(rows) != len(offsets) or any(row[0] not in offsets for row in rows):
            raise UserError(
                f"{idx}: does not fit {lst.name} ({len(offsets):,} and {len(rows):,} records, or other ids); {_AGAIN}"
            )
        self.keys = [key for _, _, key in rows]
        self.labels = np.array([label for _, label, _ in rows], dtype=np.int64)
        self.classes = _classes(self.keys, self.labels, lst)
        self._ids = np.array([identity for identity, _, _ in rows], dtype=np.int64)
        self._starts = np.array([offsets[identity] for identity, _, _ in rows], dtype=np.int64)
        order = np.argsort(self._starts)
        self._ends = np.empty_like(self._starts)
        # A record ends where the next one starts.
        self._ends[order] = np.append(self._starts[order[1:]], self.path.stat().st_size)
        self._check(idx, order)

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, index: int) -> bytes:
        """The image's bytes as they were in the archive."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        content = self._content(index)
        if len(content) < _HEADER.size:
            raise self._damaged(index)
        flag, label, identity, _ = _HEADER.unpack_from(content)
        start = _HEADER.size + 4 * flag
        if len(content) <= start:
            raise UserError(f"{self.path}: {self.keys[index]}: an empty record instead of an image; {_AGAIN}")
        if flag:
            (label,) = struct.unpack_from("<f", content, _HEADER.size)
        if (int(label), identity) != (self.labels[index], self._ids[index]):
            raise UserError(
                f"{self.path}: record {identity} has label {int(label)}, the list says {self.labels[index]} for "
                f"{self.keys[index]} (id {self._ids[index]}): the .lst is not of this .rec; {_AGAIN}"
            )
        return content[start:]

    def sizes(self) -> list[int]:
        """Bytes that each image's record takes, without reading it."""
        return (self._ends - self._starts).tolist()

    def _check(self, idx: Path, order: np.ndarray) -> None:
        """Refuse an index that does not fit the records."""
        starts, ends = self._starts[order], self._ends[order]
        if starts[0] != 0 or (starts % 4).any() or (ends - starts < _PART).any():
            raise UserError(
                f"{idx}: does not fit {self.path.name} (offsets {starts[0]:,} to {starts[-1]:,}, file of {ends[-1]:,} "
                f"bytes): the index is of another file, or the .rec is truncated; {_AGAIN}"
            )
        for place in np.unique(np.linspace(0, len(order) - 1, _LOOKED_AT, dtype=np.int64)):
            magic, kind, length = _part(self._pread(int(starts[place]), _PART), 0)
            end = starts[place] + _PART + _padded(length)
            if magic != MAGIC or kind not in (WHOLE, FIRST):
                raise UserError(f"{idx}: no record at offset {starts[place]:,} of {self.path.name}; {_AGAIN}")
            if end > ends[place] or (kind == WHOLE and end != ends[place]):
                raise self._damaged(int(order[place]))
        self._content(int(order[-1]))

    def _content(self, index: int) -> bytes:
        """A record's parts, joined."""
        start, end = int(self._starts[index]), int(self._ends[index])
        data = self._pread(start, end - start)
        parts: list[bytes] = []
        place, kind = 0, FIRST
        while kind in (FIRST, MIDDLE):
            if place + _PART > len(data):
                raise self._damaged(index)
            magic, kind, length = _part(data, place)
            content = data[place + _PART : place + _PART + length]
            if magic != MAGIC or kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)) or len(content) < length:
                raise self._damaged(index)
            parts.append(content)
            place += _PART + _padded(length)
        if place != len(data):
            raise self._damaged(index)
        return MAGIC.join(parts)

    def _pread(self, start: int, length: int) -> bytes:
        # pread leaves no position behind, so a process that was forked may share the open file.
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
        return os.pread(self._file.fileno(), length, start)

    def _damaged(self, index: int) -> UserError:
        start, end = self._starts[index], self._ends[index]
        return UserError(
            f"{self.path}: the record of {self.keys[index]} does not fill bytes {start:,} to {end:,}: truncated, "
            f"damaged, or the index does not fit; {_AGAIN}"
        )


def _part(data: bytes, place: int) -> tuple[bytes, int, int]:
    """Magic number, kind and length of the part that begins at `place`."""
    (word,) = _WORD.unpack_from(data, place + len(MAGIC))
    return data[place : place + len(MAGIC)], word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The columns of a text file, of which all but the last of three must be numbers."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = line.rstrip("\n").split("\t")
                try:
                    if len(row) < columns or not line.endswith("\n"):
                        raise ValueError("cut short")
                    int(row[0]), float(row[1])
                except ValueError as error:
                    raise UserError(f"{path}: line {number}: not of RecordIO ({error}); {_AGAIN}") from None
                yield row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a .rec needs its .idx and .lst beside it: {_AGAIN}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason}); {_AGAIN}") from None


def _classes(keys: list[str], labels: np.ndarray, lst: Path) -> list[str]:
    """The classes' names by label: the folder part of their images' keys."""
    names: dict[int, str] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        name = key.rpartition("/")[0]
        if names.setdefault(label, name) != name:
            raise UserError(f"{lst}: label {label} is both {names[label]!r} and {name!r} (of {key!r}); {_AGAIN}")
    if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
        raise UserError(f"{lst}: labels must be 0, 1, ... and keys <class>/<file>, one class per label; {_AGAIN}")
    return [names[label] for label in range(len(names))]
