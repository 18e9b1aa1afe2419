"""What a data set holds: a record of each class while it is being made, the manifest, and the report on oddities.

1.28 million images as Python objects would take more than a gigabyte, so the records of the classes stay in files
(`.records/<wnid>.json`) until the manifest is written, and whoever goes through them holds one class at a time.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slimclr.data.archives import Source
from slimclr.errors import UserError
from slimclr.files import atomic_path, write_json

MANIFEST, REPORT = "manifest.parquet", "data_report.json"
CHECKS = ("structure", "decode")
_ROW_GROUP = 1 << 16
_LISTED = 1000


class Record(NamedTuple):
    """One image of a data set: a row of the manifest (without the last two fields).

    Attributes:
        key: `<wnid>/<file name>`, the path below the data set's folder.
        wnid: The class (column `class` of the manifest).
        bytes: Size of the file.
        width: In pixels.
        height: In pixels.
        mode: Pillow's mode: RGB, L, CMYK.
        format: Pillow's name of the format: JPEG, PNG.
        sha1: SHA-1 of the file's content, in hexadecimal.
        orientation: EXIF orientation; 1 is upright.
        offset: Where the image begins in its archive.
    """

    key: str
    wnid: str
    bytes: int
    width: int
    height: int
    mode: str
    format: str
    sha1: str
    orientation: int
    offset: int

    @property
    def name(self) -> str:
        """The file name."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True)
class ClassRecord:
    """What was found in one class.

    Attributes:
        source: Identity of the source it was read from.
        check: How images were checked: structure or decode.
        boot: The machine's boot during which it was written.
        images: Sorted by name.
        corrupt: Key and reason of every image that was left out.
        hidden: Hidden entries that were passed over.
    """

    source: list[int | str]
    check: str
    boot: str
    images: list[Record]
    corrupt: list[tuple[str, str]]
    hidden: int = 0


class Records:
    """The records of the classes of a data set that is being made; iterates over the images, sorted by class and name.

    Attributes:
        folder: Where they are.
        wnids: The classes, sorted.
        hidden: Hidden entries that were passed over on the way to the classes.
    """

    def __init__(self, folder: Path, wnids: Iterable[str], hidden: int = 0) -> None:
        self.folder, self.wnids, self.hidden = folder, sorted(wnids), hidden

    def load(self, source: Source, check: str) -> ClassRecord | None:
        """The record of a class; None when there is none, or one of another source or another check."""
        record = self._load(source.wnid)
        return record if record and (record.source, record.check) == (source.identity, check) else None

    def save(self, wnid: str, record: ClassRecord) -> None:
        """Write a record, whole or not at all."""
        part = self.folder / f"{wnid}.part{os.getpid()}"
        try:
            # Not flushed to disk: what a crash of the machine leaves is not JSON, or of another boot.
            part.write_text(json.dumps(vars(record), separators=(",", ":")), encoding="utf-8")
            part.replace(self.folder / f"{wnid}.json")
        finally:
            part.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a killed run was writing; only one run at a time may be at work."""
        for part in self.folder.glob("*.part*"):
            part.unlink()

    def classes(self) -> Iterator[ClassRecord]:
        """The records in the order of the classes."""
        for wnid in self.wnids:
            record = self._load(wnid)
            if record is None:
                raise UserError(f"{self.folder / wnid}.json: gone or damaged; run the extract stage again")
            yield record

    def corrupt(self) -> list[tuple[str, str]]:
        """Key and reason of every image that was left out."""
        return [entry for record in self.classes() for entry in record.corrupt]

    def remove(self) -> None:
        """Forget them, once the manifest is written."""
        shutil.rmtree(self.folder)

    def __iter__(self) -> Iterator[Record]:
        return (image for record in self.classes() for image in record.images)

    def __len__(self) -> int:
        return sum(len(record.images) for record in self.classes())

    def _load(self, wnid: str) -> ClassRecord | None:
        try:
            document = json.loads((self.folder / f"{wnid}.json").read_bytes())
            images = [Record(*row) for row in document.pop("images")]
            return ClassRecord(images=images, corrupt=[tuple(entry) for entry in document.pop("corrupt")], **document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def boot() -> str:
    """The machine's current boot: files written since then cannot have been lost by a crash of it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write_manifest(records: Iterable[Record], path: Path) -> None:
    """Write the manifest, whole or not at all; a data set with a manifest is complete.

    Args:
        records: What an extraction returned, sorted by class and file name.
        path: Parquet file with the columns key, class, label (rank of the class in sorted order), bytes, width,
            height, mode, format, sha1; one row per image.
    """
    import pyarrow
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        {"key": text, "class": text, "label": number, "bytes": number, "width": number, "height": number}
        | {"mode": text, "format": text, "sha1": text}
    )
    with atomic_path(path) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        label, last = -1, ""
        rows: list[tuple[Any, ...]] = []

        def flush() -> None:
            columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
            writer.write_table(pyarrow.table(columns, schema=schema))
            rows.clear()

        for image in records:
            if image.wnid != last:
                label, last = label + 1, image.wnid
            rows.append((image.key, image.wnid, label, *image[2:8]))
            if len(rows) == _ROW_GROUP:
                flush()
        flush()


class Row(NamedTuple):
    """What the manifest says of an image, as far as it is read again; `sha1` is in hexadecimal."""

    key: str
    label: int
    bytes: int
    sha1: str


class Manifest:
    """The rows of a manifest, read from the file each time: 1.28 million of them would take 400 MB.

    Raises:
        UserError: It is missing or damaged, which may only show while rows are read.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet

        self.path = path
        with self._one_line():
            self._file = pyarrow.parquet.ParquetFile(path)
            if not set(Row._fields) <= set(self._file.schema_arrow.names):
                raise ValueError("a column is missing")

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __iter__(self) -> Iterator[Row]:
        with self._one_line():
            for batch in self._file.iter_batches(4096, columns=Row._fields):
                columns = (batch.column(name).to_pylist() for name in Row._fields)
                yield from map(Row._make, zip(*columns, strict=True))

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            line = f"{self.path}: no readable manifest ({error}); run the extract stage again"
            raise UserError(line) from error


def write_report(records: Records, path: Path) -> str:
    """Write what is odd about a data set's images.

    Args:
        records: What an extraction returned.
        path: JSON file: counts, and for each oddity its count and the files (all corrupt ones, else the first 1000).

    Returns:
        The counts in one line.
    """
    from PIL import Image

    formats = Image.registered_extensions()
    odd: dict[str, list[Any]] = {name: [] for name in ("cmyk", "grey", "format_mismatch", "exif_rotation")}
    counts = dict.fromkeys(odd, 0)
    corrupt: list[dict[str, str]] = []
    prefixes = bytearray()
    total = classes = 0
    hidden = records.hidden

    def note(name: str, entry: Any) -> None:
        counts[name] += 1
        if len(odd[name]) < _LISTED:
            odd[name].append(entry)

    for record in records.classes():
        classes += bool(record.images)
        hidden += record.hidden
        corrupt += [{"key": key, "reason": reason} for key, reason in record.corrupt]
        for image in record.images:
            total += image.bytes
            prefixes += bytes.fromhex(image.sha1[:16])
            if image.mode == "CMYK":
                note("cmyk", image.key)
            if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
                note("grey", image.key)
            if formats.get(os.path.splitext(image.name)[1].lower()) != image.format:
                note("format_mismatch", {"key": image.key, "format": image.format})
            if image.orientation != 1:
                note("exif_rotation", {"key": image.key, "orientation": image.orientation})
    duplicates = _duplicates(records, np.frombuffer(prefixes, np.uint64))
    images = len(prefixes) // 8
    document = {
        "schema": 1,
        "images": images,
        "classes": classes,
        "bytes": total,
        "hidden": hidden,
        "corrupt": {"count": len(corrupt), "files": corrupt},
        **{name: {"count": counts[name], "files": odd[name]} for name in odd},
        "duplicates": {"count": sum(len(keys) - 1 for keys in duplicates), "files": duplicates[:_LISTED]},
    }
    write_json(path, document)
    return (
        f"{images:,} images in {classes:,} classes, {total / 1e6:,.1f} MB; left out as corrupt {len(corrupt):,}; CMYK "
        f"{counts['cmyk']:,}, grey {counts['grey']:,}, format other than the name says {counts['format_mismatch']:,}, "
        f"rotated by EXIF {counts['exif_rotation']:,}, duplicates {sum(len(keys) - 1 for keys in duplicates):,}, "
        f"hidden entries passed over {hidden:,}"
    )


def _duplicates(records: Iterable[Record], prefixes: np.ndarray) -> Sequence[list[str]]:
    """Groups of keys with the same content; full sums are only held of those whose first eight bytes are shared."""
    values, occurrences = np.unique(prefixes, return_counts=True)
    shared = set(values[occurrences > 1].tolist())
    if not shared:
        return []
    groups: dict[str, list[str]] = {}
    for image, prefix in zip(records, prefixes.tolist(), strict=True):
        if prefix in shared:
            groups.setdefault(image.sha1, []).append(image.key)
    return [keys for keys in groups.values() if len(keys) > 1]
