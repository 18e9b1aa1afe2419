"""An extracted split into one LMDB of smaller images, for clusters whose cores are few."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from slimclr.data.images.resize import shrink
from slimclr.data.manifest import Manifest
from slimclr.data.stores.convert import contents, read_checked
from slimclr.data.stores.lmdb import Entry
from slimclr.data.stores.lmdb_writer import LMDBWriter
from slimclr.files import sha256, write_text
from slimclr.lock import exclusive_lock
from slimclr.progress import progress


def write_resized_lmdb(
    folder: Path, manifest: Path, out: Path, *, shorter_side: int, quality: int, threads: int
) -> None:
    """As `slimclr.data.stores.convert.write_lmdb`, with larger images scaled down; their bytes are another data set's.

    What a killed run goes on from are the images that it has written and a list of them beside, `.<name>.resized`; both
    begin anew when the manifest or the size has changed.

    Args:
        folder: Folder of one folder per class.
        manifest: What `slimclr.data.manifest.write_manifest` wrote for it.
        out: The database, one file.
        shorter_side: In pixels; smaller images keep their bytes.
        quality: Of the new JPEGs.
        threads: That decode and encode.

    Raises:
        UserError: The manifest is missing or damaged, a file is missing, not what the manifest says or not readable, or
            the disk is full.
    """
    rows = Manifest(manifest)
    resized = {"shorter_side": shorter_side, "quality": quality}

    def shrunk(path: Path, entry: Entry) -> bytes:
        return shrink(read_checked(path, entry), entry[0], **resized)

    with exclusive_lock(lock := out.with_name(f".{out.name}.lock")):
        journal = _Journal(out.with_name(f".{out.name}.resized"), resized | {"manifest": sha256(manifest)})
        with LMDBWriter(out, journal.entries()) as writer, progress(f"write {out.name}", len(rows)) as advance:
            advance(writer.done)
            journal.cut(writer.done)
            entries = ((row.key, row.bytes, row.sha1) for row in islice(rows, writer.done, None))
            with journal.path.open("a", encoding="utf-8") as file:
                for (key, _, _), data in contents(folder, entries, shrunk, threads):
                    entry = key, len(data), hashlib.sha1(data, usedforsecurity=False).hexdigest()
                    file.write(json.dumps(entry) + "\n")
                    file.flush()
                    writer.add(entry, data)
                    advance(1)
            writer.finish(resized=resized)
        journal.path.unlink()
        lock.unlink()


class _Journal:
    """What was written so far: a line that says how it was made, then one for each image.

    Args:
        path: Its file.
        made: How; a file that says something else begins anew.
    """

    def __init__(self, path: Path, made: dict[str, int | str]):
        self.path, self._head = path, json.dumps(made)
        if self._lines()[:1] != [self._head]:
            write_text(path, self._head + "\n")

    def entries(self) -> Iterator[Entry]:
        """The images."""
        for line in self._lines()[1:]:
            try:
                key, size, checksum = json.loads(line)
            except ValueError:  # the line that a killed run was writing
                return
            yield key, size, checksum

    def cut(self, count: int) -> None:
        """Keep the first images only."""
        write_text(self.path, "".join(line + "\n" for line in self._lines()[: 1 + count]))

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
