"""Writing RecordIO with mxnet's own writer. The only module that imports mxnet: it runs in `.venvs/recordio`."""

import errno
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from slimclr.data.images.resize import shrink
from slimclr.data.stores import open_images
from slimclr.data.stores.recordio import RecordImages
from slimclr.errors import UserError
from slimclr.files import fsync
from slimclr.progress import progress
from slimclr.workers import become_worker

if TYPE_CHECKING:
    from slimclr.data.stores.base import Images

# Images that a process prepares at a time.
_BATCH = 16


def write_recordio(data: Path, out: Path, *, resize: int | None = None, quality: int = 95, jobs: int = 1) -> None:
    """Put a data set into `<out>`, `.idx` and `.lst` beside it, whole or not at all: the .rec appears last.

    Args:
        data: An LMDB or a folder of one folder per class.
        out: The records, `<name>.rec`.
        resize: Shorter side in pixels; larger images are scaled down (bicubic, antialiased) and encoded as JPEG anew,
            smaller ones keep their bytes, as all do without it.
        quality: Of the new JPEGs.
        jobs: Processes that read and resize; one more writes, in order.

    Raises:
        UserError: No mxnet here, an image is empty or not readable, or the disk is full.
    """
    try:
        from mxnet import recordio
        from mxnet.base import MXNetError
    except ImportError as error:
        raise UserError(f"mxnet cannot be imported ({error}); use .venvs/recordio/bin/slimclr recordio") from error

    images = open_images(data)
    # The three files are put together, and checked, under their own names in a folder of a fixed name, so that what
    # a killed run left there goes now.
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    rec, idx, lst = (part / out.with_suffix(suffix).name for suffix in (".rec", ".idx", ".lst"))
    try:
        with lst.open("w", encoding="utf-8") as file:
            for index, (key, label) in enumerate(zip(images.keys, images.labels.tolist(), strict=True)):
                if not key.isprintable():
                    raise UserError(f"{data}: key {key!r} has a character that a .lst cannot hold; rename the image")
                file.write(f"{index}\t{label}\t{key}\n")
        writer = recordio.MXIndexedRecordIO(str(idx), str(rec), "w")
        try:
            with progress(f"write {out.name}", len(images)) as advance:
                prepared = _prepared(data, images, resize=resize, quality=quality, jobs=jobs)
                for index, (label, image) in enumerate(zip(images.labels.tolist(), prepared, strict=True)):
                    header = recordio.IRHeader(0, label, index, 0)
                    writer.write_idx(index, recordio.pack(header, image))
                    advance(1)
        finally:
            writer.close()
        for path in (lst, idx, rec):
            fsync(path)
        # mxnet does not notice when the disk is too full for its last bytes.
        RecordImages(rec)
        # An old .rec must never lie beside a new index.
        out.unlink(missing_ok=True)
        for path in (lst, idx, rec):
            path.replace(out.with_name(path.name))
        fsync(out.parent)
    except (MXNetError, OSError) as error:
        # mxnet only says that a write was incomplete.
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        raise UserError(f"{out}: could not be written: the disk is full; make room and run it again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _prepared(data: Path, images: "Images", *, resize: int | None, quality: int, jobs: int) -> Iterator[bytes]:
    """What is to be written of every image, in order."""
    if jobs == 1:
        for index in range(len(images)):
            yield _prepare(images, index, resize, quality)
        return
    # Processes are spawned: forking would copy the threads that mxnet started when it was imported.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=become_worker, initargs=(os.getpid(),)) as pool:
        # Few batches are under way at a time, so that memory does not grow with the data set.
        under_way: deque[Future[list[bytes]]] = deque()
        for start in range(0, len(images), _BATCH):
            indices = range(start, min(start + _BATCH, len(images)))
            under_way.append(pool.submit(_prepare_batch, data, indices, resize, quality))
            if len(under_way) > 2 * jobs:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


@cache
def _opened(data: Path) -> "Images":
    """The data set, opened once in each process."""
    return open_images(data)


def _prepare_batch(data: Path, indices: range, resize: int | None, quality: int) -> list[bytes]:
    return [_prepare(_opened(data), index, resize, quality) for index in indices]


def _prepare(images: "Images", index: int, resize: int | None, quality: int) -> bytes:
    data = images.read(index)
    key = images.keys[index]
    if not data:
        raise UserError(f"{key}: an empty file instead of an image; extract the archive again")
    if resize is None:
        return data
    return shrink(data, key, shorter_side=resize, quality=quality)
