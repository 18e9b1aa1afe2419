"""From sources of images to one folder per class, or straight into an LMDB.

A class is written to `.<wnid>.part` and renamed when it is complete; its record is written after that. A later run
skips classes with a record and never trusts a folder without one. The archives are only read.
"""

import errno
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import TypedDict, Unpack

from slimclr.data.archives import (
    EXPECTATIONS,
    ILSVRC2012_CLASSES,
    ILSVRC2012_TRAIN_IMAGES,
    ILSVRC2012_VAL_IMAGES,
    Listing,
    Source,
    reading_through,
    train_sources,
    val_sources,
)
from slimclr.data.archives.entries import is_hidden
from slimclr.data.archives.records import ClassRecord, Records, boot
from slimclr.data.archives.workers import Map, workers
from slimclr.data.images.check import describe
from slimclr.data.manifest import CHECKS, Record
from slimclr.data.space import check_space
from slimclr.data.stores.lmdb import Entry, part_path
from slimclr.data.stores.lmdb_writer import LMDBWriter
from slimclr.errors import UserError
from slimclr.files import write_json
from slimclr.lock import exclusive_lock
from slimclr.progress import progress

# More processes than this wait for the disk, and each takes some 20 MB.
_MAX_JOBS = 8
# Files take whole blocks, and so do images in an LMDB; tar's own headers and padding are nearly as large.
_SLACK = 1.02
_LISTED = 20
# Not an output of the rule: Snakemake removes a failed job's outputs, and this list must survive.
CORRUPT = "corrupt_images.json"


def available_jobs() -> int:
    """Default number of worker processes: the processors that this process may use, at most eight."""
    return min(_MAX_JOBS, len(os.sched_getaffinity(0)))


class Options(TypedDict, total=False):
    """How a split is unpacked.

    Attributes:
        lmdb: The database to write instead of folders of images; None writes folders.
        check_images: "structure" parses the header and looks for the end, "decode" decodes every image.
        on_corrupt: "stop" refuses corrupt images with a list, all of them in `<out>/corrupt_images.json`; "skip" leaves
            them out.
        jobs: Worker processes; 1 works in this process.
        md5: MD5 that the archive must have, in hexadecimal; None does not compute it.
    """

    lmdb: Path | None
    check_images: str
    on_corrupt: str
    jobs: int
    md5: str | None


def extract_train(archive: Path, out: Path, *, expect: str, **options: Unpack[Options]) -> Records:
    """Unpack the training images into `<out>/<wnid>/`, or put them straight into an LMDB.

    Args:
        archive: `ILSVRC2012_img_train.tar`, whose inner archives are read inside it and never written to disk; or
            another form that `train_sources` knows.
        out: Folder of the data set; what an earlier run finished there is kept.
        expect: "ilsvrc2012" asks for the 1000 classes and 1,281,167 images of the official archive, "subset" only
            that every class of the archive is whole and not empty.
        options: See `Options`.

    Returns:
        The images, sorted by class and name. Remove them once the manifest is written.

    Raises:
        UserError: The archive is missing, damaged, unsafe to unpack or not what `expect` asks for, images are
            corrupt, or the disk is too small.
    """
    return _extract("train", archive, lambda: train_sources(archive), out, expect, ILSVRC2012_TRAIN_IMAGES, **options)


def extract_val(archive: Path, classes: Path | None, out: Path, *, expect: str, **options: Unpack[Options]) -> Records:
    """Sort the validation images into `<out>/<wnid>/`, or put them straight into an LMDB; else as `extract_train`.

    Args:
        archive: The flat `ILSVRC2012_img_val.tar`, or another form that `val_sources` knows.
        classes: Where the images' classes are, see `read_classes`; a folder of class folders needs none.
        out: Folder of the data set; what an earlier run finished there is kept.
        expect: "ilsvrc2012" asks for 50,000 images, "subset" for as many as `classes` names.
        options: See `Options`.
    """
    sources = partial(val_sources, archive, classes, expect=expect)
    return _extract("val", archive, sources, out, expect, ILSVRC2012_VAL_IMAGES, **options)


def _extract(
    split: str,
    archive: Path,
    index: Callable[[], Listing],
    out: Path,
    expect: str,
    images: int,
    *,
    lmdb: Path | None = None,
    check_images: str = "structure",
    on_corrupt: str = "stop",
    jobs: int = 1,
    md5: str | None = None,
) -> Records:
    _check_one_of(
        expect=(expect, EXPECTATIONS), check_images=(check_images, CHECKS), on_corrupt=(on_corrupt, ("stop", "skip"))
    )
    wanted = (ILSVRC2012_CLASSES, images) if expect == "ilsvrc2012" else None
    if md5 is not None and archive.is_dir():
        raise UserError(f"{archive}: a folder has no MD5; give the archive, or do not check it")
    # The workers come first: forked before there are threads.
    with _plain_errors(out), workers(jobs) as run:
        listing = index()
        sources = sorted(listing.sources, key=lambda source: source.wnid)
        records = Records(out / ".records", [source.wnid for source in sources], hidden=listing.hidden)
        # A flat archive is read class by class, so here and there: one pass in order brings it into memory.
        flat = split == "val" and archive.is_file()
        flat = flat and 2 * sum(source.bytes for source in sources) > archive.stat().st_size
        reading = reading_through(archive, md5) if md5 is not None or flat else nullcontext(lambda: None)
        with reading as check_md5, exclusive_lock(records.folder / "lock"):
            records.sweep()
            (out / CORRUPT).unlink(missing_ok=True)

            def check_all() -> None:
                _check_records(records, archive, wanted, on_corrupt, out / CORRUPT)
                check_md5()

            with progress(f"extract {split}", wanted[1] if wanted else None) as advance:
                if lmdb is None:
                    _to_folders(sources, records, out, check_images, run, advance)
                    check_all()
                else:
                    _to_lmdb(sources, records, lmdb, check_images, run, advance, check_all)
    return records


def _to_folders(
    sources: list[Source], records: Records, out: Path, check: str, run: Map, advance: Callable[[int], None]
) -> None:
    """Make one folder per class."""
    todo = [source for source in sources if records.load(source, check) is None]
    _refuse_other_classes(out, {source.wnid for source in sources})
    check_space(out, int(_SLACK * sum(source.bytes for source in todo)))
    for count in run(partial(_unpack_class, out=out, records=records, check=check), sources):
        advance(count)
    for part in out.glob(".*.part"):
        shutil.rmtree(part)


def _to_lmdb(
    sources: list[Source],
    records: Records,
    lmdb: Path,
    check: str,
    run: Map,
    advance: Callable[[int], None],
    check_all: Callable[[], None],
) -> None:
    """Describe the classes and append their images to a database, which is finished once `check_all` has passed."""
    part = part_path(lmdb)
    written = part.stat().st_blocks * 512 if part.exists() else 0
    check_space(lmdb.parent, int(_SLACK * sum(source.bytes for source in sources)) - written)
    scanned = run(partial(_scan_class, records=records, check=check), sources)
    lock = lmdb.with_name(f".{lmdb.name}.lock")
    with exclusive_lock(lock):
        with LMDBWriter(lmdb, _known(sources, records, check)) as writer:
            for source, count in zip(sources, scanned, strict=True):
                _pack_class(source, records, check, writer)
                advance(count)
            writer.commit()
            check_all()
            writer.finish()
        lock.unlink()


def _scan(source: Source, check: str, keep: Callable[[str, bytes], None]) -> ClassRecord:
    """Read a class and describe its images; those that are whole go to `keep`."""
    images: list[Record] = []
    corrupt: list[tuple[str, str]] = []
    seen: set[str] = set()
    hidden = 0
    with warnings.catch_warnings():
        # Pillow's warnings, for instance about EXIF, do not matter here.
        warnings.simplefilter("ignore")
        for name, offset, data in source.images():
            key = f"{source.wnid}/{name}"
            if is_hidden(name):
                hidden += 1
                continue
            if name in seen:
                raise UserError(f"{key}: this image comes twice in its archive; download the archive again")
            seen.add(name)
            try:
                width, height, mode, kind, orientation = describe(data, check)
            except ValueError as error:
                corrupt.append((key, str(error)))
                continue
            checksum = sha1(data, usedforsecurity=False).hexdigest()
            images.append(Record(key, source.wnid, len(data), width, height, mode, kind, checksum, orientation, offset))
            keep(name, data)
    if not seen:
        raise UserError(f"{source.wnid}.tar: holds no image; download the archive again")
    return ClassRecord(source.identity, check, boot(), sorted(images), sorted(corrupt), hidden)


def _unpack_class(source: Source, out: Path, records: Records, check: str) -> int:
    """Make one class folder unless it is there, whole; returns the number of images."""
    folder, part = out / source.wnid, out / f".{source.wnid}.part"
    record = records.load(source, check)
    if record is None or not _intact(out, folder, record):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        record = _scan(source, check, partial(_write_file, part))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        records.save(source.wnid, record)
    return len(record.images)


def _scan_class(source: Source, records: Records, check: str) -> int:
    """Describe one class unless that is done; returns the number of images."""
    record = records.load(source, check)
    if record is None:
        record = _scan(source, check, lambda name, data: None)
        records.save(source.wnid, record)
    return len(record.images)


def _pack_class(source: Source, records: Records, check: str, writer: LMDBWriter) -> None:
    """Append a described class to the database, except for images that are in it already."""
    record = records.load(source, check)
    assert record is not None
    with source.open() as read:
        for image in record.images:
            if (image.wnid, image.name) > writer.last:
                writer.add((image.key, image.bytes, image.sha1), read(image.name, image.offset, image.bytes))


def _known(sources: Iterable[Source], records: Records, check: str) -> Iterator[Entry]:
    """The first images of the data set, as far as its classes have been described without a gap."""
    for source in sources:
        record = records.load(source, check)
        if record is None:
            return
        yield from ((image.key, image.bytes, image.sha1) for image in record.images)


def _intact(out: Path, folder: Path, record: ClassRecord) -> bool:
    """Whether a class folder still is what its record says.

    Names and sizes tell as long as this is the same machine and it has not been started anew: until then the page cache
    has every file. Otherwise contents are compared, since a crash can leave files of the right size without them.
    """
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
        if sizes != {image.name: image.bytes for image in record.images}:
            return False
        same_boot = record.boot != "" and record.boot == boot()
        return same_boot or all(_sha1(out / image.key) == image.sha1 for image in record.images)
    except OSError:
        return False


def _sha1(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def _write_file(folder: Path, name: str, data: bytes) -> None:
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        written = 0
        while written < len(data):  # a disk that fills up takes a part
            written += os.write(descriptor, data[written:])
    finally:
        os.close(descriptor)


def _check_records(
    records: Records, archive: Path, wanted: tuple[int, int] | None, on_corrupt: str, listed: Path
) -> None:
    """Refuse corrupt images, unless they are left out, and other counts than the official ones.

    Args:
        records: What was found.
        archive: Where.
        wanted: Classes and images that must be there; None takes any.
        on_corrupt: stop or skip.
        listed: JSON file for all corrupt images, when they are refused.
    """
    classes = images = 0
    corrupt: list[tuple[str, str]] = []
    for record in records.classes():
        classes += 1
        images += len(record.images) + len(record.corrupt)
        corrupt += record.corrupt
    if corrupt and on_corrupt == "stop":
        first = ", ".join(f"{key}: {reason}" for key, reason in corrupt[:_LISTED])
        more = f", and {len(corrupt) - _LISTED:,} more" if len(corrupt) > _LISTED else ""
        files = [{"key": key, "reason": reason} for key, reason in corrupt]
        write_json(listed, {"schema": 1, "count": len(corrupt), "files": files})
        raise UserError(
            f"{archive}: {len(corrupt):,} corrupt image(s) ({first}{more}), all of them in {listed}; download the "
            "archive again, or set on_corrupt to 'skip' to leave them out"
        )
    if wanted and (classes, images) != wanted:
        raise UserError(
            f"{archive}: {classes:,} classes and {images:,} images instead of {wanted[0]:,} and {wanted[1]:,}; "
            "download it again, or set expect to 'subset' if it is one on purpose"
        )
    if len(corrupt) == images:
        raise UserError(f"{archive}: every image is corrupt; download the archive again")


def _check_one_of(**settings: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, allowed) in settings.items():
        if value not in allowed:
            raise UserError(f"{name} is {value!r}; set it to one of {', '.join(allowed)}")


def _refuse_other_classes(out: Path, wnids: set[str]) -> None:
    for folder in sorted(out.iterdir()):
        if folder.is_dir() and folder.name[0] != "." and folder.name not in wnids:
            raise UserError(f"{folder}: this class is not in the archive; remove the folder or choose another target")


@contextmanager
def _plain_errors(out: Path) -> Iterator[None]:
    """Turn errors of the operating system and killed workers into a UserError of one line."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            f"{out}: a worker was killed, perhaps for want of memory; run again with fewer --jobs"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            line = f"{out}: the disk is full; free space and run this stage again, it goes on from here"
        else:
            line = f"{error.filename or out}: {error.strerror or error}; mend that and run this stage again"
        raise UserError(line) from error
