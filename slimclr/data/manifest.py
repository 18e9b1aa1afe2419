"""What a data set holds: a record of each class while it is being made, the manifest, and the report on oddities.

1.28 million images as Python objects would take more than a gigabyte, so the records of the classes stay in files
(`.records/<wnid>.json`) until the manifest is written, and only one class at a time is in memory.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from slimclr.errors import UserError
from slimclr.files import atomic_path

MANIFEST, REPORT = "manifest.parquet", "data_report.json"

CHECKS = ("structure", "decode")

_ROW_GROUP = 1 << 16


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


# Of a damaged one, a name could lead anywhere.
_KEY = re.compile(r"[^/\x00-\x1f\x7f]+/[^/\x00-\x1f\x7f]+")


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
                columns = [batch.column(name).to_pylist() for name in Row._fields]
                if odd := [key for key in columns[0] if not _KEY.fullmatch(key or "") or "../" in key]:
                    raise ValueError(f"{odd[0]!r} is no <class>/<image>")
                yield from map(Row._make, zip(*columns, strict=True))

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            line = f"{self.path}: no readable manifest ({error}); run the extract stage again"
            raise UserError(line) from error
