"""An extracted split into one LMDB."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha1
from itertools import islice
from pathlib import Path

from slimclr.data.manifest import Manifest
from slimclr.data.space import check_space
from slimclr.data.stores.lmdb import Entry, part_path
from slimclr.data.stores.lmdb_writer import INITIAL_MAP_SIZE, LMDBWriter
from slimclr.errors import UserError
from slimclr.lock import exclusive_lock
from slimclr.progress import progress

_READ_AHEAD_BYTES, _READ_AHEAD_FILES, _READERS = 1 << 25, 64, 4


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
    with exclusive_lock(lock):
        part = part_path(out)
        written = part.stat().st_blocks * 512 if part.exists() else 0
        check_space(out.parent, sum(size + 4096 for _, size, _ in entries()) - written)
        with (
            LMDBWriter(out, entries(), map_size=map_size) as writer,
            progress(f"write {out.name}", len(rows)) as advance,
        ):
            advance(writer.done)
            for entry, data in contents(folder, islice(entries(), writer.done, None), read_checked):
                writer.add(entry, data)
                advance(1)
            writer.finish()
        lock.unlink()


def contents(
    folder: Path, entries: Iterator[Entry], read: Callable[[Path, Entry], bytes], threads: int = _READERS
) -> Iterator[tuple[Entry, bytes]]:
    """The files of a data set, in order; a few threads read ahead, as opening a file takes long.

    Args:
        folder: Folder of the data set.
        entries: What the manifest says of each file.
        read: Gives a file's content, for its path and entry.
        threads: That read.
    """
    waiting: deque[tuple[Entry, Future[bytes]]] = deque()
    held = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(read, folder / entry[0], entry)))
                held += entry[1]
                while held > _READ_AHEAD_BYTES or len(waiting) > _READ_AHEAD_FILES:
                    first, data = waiting.popleft()
                    held -= first[1]
                    yield first, data.result()
            for first, data in waiting:
                yield first, data.result()
        finally:
            pool.shutdown(cancel_futures=True)


def read_checked(path: Path, entry: Entry) -> bytes:
    """A file's content, if it is what the manifest says.

    Raises:
        UserError: It is missing, not readable, or not what the manifest says.
    """
    _, size, checksum = entry
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
