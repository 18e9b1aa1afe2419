"""Records of the classes that an extraction has finished, on disk, so that a killed one can continue."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slimclr.data.archives import Source
from slimclr.data.manifest import Record
from slimclr.errors import UserError


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
        """Delete the records, once the manifest is written."""
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
    """Identifier of the machine's current boot: files written since then cannot have been lost by a crash."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
