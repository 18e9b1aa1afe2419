"""Features as a file: CSV and Parquet row by row, NPY and safetensors when all are known."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import save_file

from slimclr.errors import UserError
from slimclr.exporting.packages import needed
from slimclr.files import atomic_path

SUFFIXES = (".csv", ".parquet", ".npy", ".safetensors")


class Table(Protocol):
    """Takes the rows of one batch after the other."""

    def add(self, names: Sequence[str], rows: dict[float, np.ndarray]) -> None:
        """Names of some photos, and their features (n, ...) by width."""


@contextmanager
def open_table(out: Path, widths: Sequence[float]) -> Iterator[Table]:
    """A file that is there, whole, when the context ends.

    Args:
        out: Its suffix says which kind: `.csv` and `.parquet` have the columns name and width; a `.safetensors` has a
            tensor for each width and the names in its metadata; a `.npy` has one width, and the names lie beside it
            in `<name>.names.txt`.
        widths: Of the rows.

    Raises:
        UserError: Another suffix, several widths for a `.npy`, or pyarrow is missing for a Parquet file.
    """
    check_table(out, widths)
    kind = {".csv": _Csv, ".parquet": _Parquet, ".npy": _Npy, ".safetensors": _Safetensors}[out.suffix]
    with atomic_path(out) as part:
        table: Any = kind(part, out)
        try:
            yield table
        except BaseException:
            table.close(whole=False)
            raise
        table.close(whole=True)


def check_table(out: Path, widths: Sequence[float]) -> None:
    """Refuse what `open_table` refuses, before anything is computed."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: its suffix says the format; give one of {', '.join(SUFFIXES)}")
    if out.suffix == ".npy" and len(widths) > 1:
        raise UserError(f"--out {out}: an .npy holds one width; give one --width, or a .safetensors")


class _Csv:
    def __init__(self, part: Path, _: Path) -> None:
        self._file = part.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._columns = 0

    def add(self, names: Sequence[str], rows: dict[float, np.ndarray]) -> None:
        flat = {width: values.reshape(len(values), -1) for width, values in rows.items()}
        if not self._columns:
            # Narrow widths have fewer features: their last fields stay empty.
            self._columns = max(values.shape[1] for values in flat.values())
            self._writer.writerow(["name", "width", *(f"f{number}" for number in range(self._columns))])
        for place, name in enumerate(names):
            for width, values in flat.items():
                numbers = [f"{value:.9g}" for value in values[place].tolist()]
                self._writer.writerow([name, width, *numbers, *[""] * (self._columns - len(numbers))])

    def close(self, *, whole: bool) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, part: Path, out: Path) -> None:
        pyarrow, parquet = (needed(name, by=f"--out {out}") for name in ("pyarrow", "pyarrow.parquet"))
        self._pyarrow: Any = pyarrow
        fields = [("name", pyarrow.string()), ("width", pyarrow.float64())]
        self._schema = pyarrow.schema([*fields, ("features", pyarrow.list_(pyarrow.float32()))])
        self._writer = parquet.ParquetWriter(part, self._schema)

    def add(self, names: Sequence[str], rows: dict[float, np.ndarray]) -> None:
        pairs = [(place, width) for place in range(len(names)) for width in rows]
        columns = [
            [names[place] for place, _ in pairs],
            [width for _, width in pairs],
            [rows[width][place].reshape(-1) for place, width in pairs],
        ]
        self._writer.write_table(self._pyarrow.table(columns, schema=self._schema))

    def close(self, *, whole: bool) -> None:
        self._writer.close()


class _Collected:
    """Keeps all rows in memory."""

    def __init__(self, part: Path, out: Path) -> None:
        self._part, self._out = part, out
        self._names: list[str] = []
        self._rows: dict[float, list[np.ndarray]] = {}

    def add(self, names: Sequence[str], rows: dict[float, np.ndarray]) -> None:
        self._names += names
        for width, values in rows.items():
            self._rows.setdefault(width, []).append(values)

    def close(self, *, whole: bool) -> None:
        if whole:
            self._write({width: np.concatenate(values) for width, values in self._rows.items()})

    def _write(self, rows: dict[float, np.ndarray]) -> None:
        raise NotImplementedError


class _Npy(_Collected):
    def _write(self, rows: dict[float, np.ndarray]) -> None:
        (values,) = rows.values()
        with self._part.open("wb") as file:
            np.save(file, values)
        with atomic_path(self._out.with_name(f"{self._out.stem}.names.txt")) as part:
            part.write_text("".join(f"{name}\n" for name in self._names), encoding="utf-8")


class _Safetensors(_Collected):
    def _write(self, rows: dict[float, np.ndarray]) -> None:
        tensors = {str(width): np.ascontiguousarray(values) for width, values in rows.items()}
        save_file(tensors, self._part, {"names": json.dumps(self._names, ensure_ascii=False)})
