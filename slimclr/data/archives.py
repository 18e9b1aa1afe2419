"""From the official ImageNet archives to one folder per class, and the manifest that says what is in it.

An outer archive is read once, front to back, and never changed. A class is written to `.<wnid>.part` and renamed when
it is whole, so that whatever bears a class's name is complete, and an interrupted extraction goes on where it stopped.
"""

import io
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha1
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image

from slimclr.errors import UserError
from slimclr.files import atomic_path
from slimclr.progress import Advance, progress

EXPECTATIONS = ("ilsvrc2012", "subset")
ILSVRC2012_CLASSES = 1000
ILSVRC2012_TRAIN_IMAGES = 1_281_167
ILSVRC2012_VAL_IMAGES = 50_000
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Record:
    """One image of a data set: a row of the manifest.

    Attributes:
        key: `<wnid>/<file name>`, the path below the data set's folder.
        wnid: The class (column `class` of the manifest).
        bytes: Size of the file.
        width: In pixels.
        height: In pixels.
        mode: Pillow's mode: RGB, L, CMYK.
        format: Pillow's name of the format: JPEG, PNG.
        sha1: SHA-1 of the file's content, in hexadecimal.
    """

    key: str
    wnid: str
    bytes: int
    width: int
    height: int
    mode: str
    format: str
    sha1: str


def extract_train(archive: Path, out: Path, *, expect: str) -> list[Record]:
    """Unpack `ILSVRC2012_img_train.tar`, a tar of one `<wnid>.tar` per class, into `<out>/<wnid>/`.

    Args:
        archive: The outer archive; the inner ones are read inside it and never written to disk.
        out: Folder of the data set; classes that are already there with the same files and sizes are kept.
        expect: "ilsvrc2012" asks for the 1000 classes and 1,281,167 images of the official archive, "subset" only
            that every class of the archive is whole and not empty.

    Returns:
        The images, sorted by key.

    Raises:
        UserError: The archive is missing, damaged, unsafe to unpack or not what `expect` asks for.
    """
    _check_expect(expect)
    total = ILSVRC2012_TRAIN_IMAGES if expect == "ilsvrc2012" else None
    records: list[Record] = []
    seen: set[str] = set()
    with progress("extract train", total) as advance, _open_tar(archive, str(archive)) as outer:
        for member in _files(outer, str(archive)):
            wnid, dot, suffix = _flat_name(member).partition(".")
            if not wnid or dot + suffix != ".tar":
                raise UserError(
                    f"{archive}: member {member.name!r} is not a class archive <wnid>.tar; give the official "
                    "ILSVRC2012_img_train.tar (a tar of one tar per class)"
                )
            if wnid in seen:
                raise UserError(f"{archive}: class {wnid} comes twice; keep one {wnid}.tar in the archive")
            seen.add(wnid)
            records.extend(_extract_class(outer, member, f"{archive}: {member.name}", out / wnid, advance))
    if not records:
        raise UserError(f"{archive}: holds no class archive; give the official ILSVRC2012_img_train.tar")
    if expect == "ilsvrc2012" and (len(seen), len(records)) != (ILSVRC2012_CLASSES, ILSVRC2012_TRAIN_IMAGES):
        raise UserError(
            f"{archive}: {len(seen):,} classes and {len(records):,} images instead of {ILSVRC2012_CLASSES:,} and "
            f"{ILSVRC2012_TRAIN_IMAGES:,}; download it again, or set expect to 'subset' if it is one on purpose"
        )
    _tidy(out, {record.wnid for record in records})
    return sorted(records, key=lambda record: record.key)


def extract_val(archive: Path, devkit: Path, out: Path, *, expect: str) -> list[Record]:
    """Unpack the flat `ILSVRC2012_img_val.tar` into `<out>/<wnid>/`, by the devkit's ground truth.

    Args:
        archive: The archive of the validation images.
        devkit: `ILSVRC2012_devkit_t12.tar.gz`.
        out: Folder of the data set; classes that are already there with the same files and sizes are kept.
        expect: "ilsvrc2012" asks for 50,000 images, "subset" for as many as the ground truth has lines.

    Returns:
        The images, sorted by key.

    Raises:
        UserError: An archive is missing, damaged or unsafe to unpack, or images and ground truth do not fit.
    """
    _check_expect(expect)
    wnids = read_ground_truth(devkit)
    if expect == "ilsvrc2012" and len(wnids) != ILSVRC2012_VAL_IMAGES:
        raise UserError(
            f"{devkit}: ground truth of {len(wnids):,} images instead of {ILSVRC2012_VAL_IMAGES:,}; download it "
            "again, or set expect to 'subset' if it is one on purpose"
        )
    wanted = {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number, wnid in enumerate(wnids, 1)}
    sizes: dict[str, int] = {}
    # First pass: names only. What is wrong with the archive as a whole is said before anything is written.
    with _open_tar(archive, str(archive)) as tar:
        for member in _files(tar, str(archive)):
            name = _flat_name(member)
            if name not in wanted:
                raise UserError(
                    f"{archive}: member {member.name!r} is not among the {len(wanted):,} images of the ground truth "
                    f"in {devkit}; give archives that belong together"
                )
            if name in sizes:
                raise UserError(f"{archive}: member {member.name!r} comes twice; download the archive again")
            sizes[name] = member.size
    missing = next((name for name in wanted if name not in sizes), None)
    if missing is not None:
        raise UserError(
            f"{archive}: {missing} is missing ({len(sizes):,} images, the ground truth in {devkit} has "
            f"{len(wanted):,}); download the archive again"
        )
    by_class: dict[str, dict[str, int]] = {wnid: {} for wnid in wanted.values()}
    for name, size in sizes.items():
        by_class[wanted[name]][name] = size
    done = {wnid for wnid, files in by_class.items() if _sizes(out / wnid) == files}
    for wnid in by_class.keys() - done:
        _begin(out / wnid)
    records = []
    with progress("extract val", len(wanted)) as advance, _open_tar(archive, str(archive)) as tar:
        for member in _files(tar, str(archive)):
            name = _flat_name(member)
            wnid = wanted[name]
            data = _read(tar, member, str(archive))
            records.append(_record(data, wnid, name, f"{archive}: {member.name}"))
            if wnid not in done:
                (_part(out / wnid) / name).write_bytes(data)
            advance(1)
    for wnid in sorted(by_class.keys() - done):
        _finish(out / wnid)
    _tidy(out, set(by_class))
    return sorted(records, key=lambda record: record.key)


def read_ground_truth(devkit: Path) -> list[str]:
    """The class of every validation image, from the devkit.

    Args:
        devkit: `ILSVRC2012_devkit_t12.tar.gz`.

    Returns:
        The WordNet ids of the images 1, 2, ...

    Raises:
        UserError: The devkit is missing, damaged, or its two files do not fit each other.
    """
    import scipy.io

    texts: dict[str, bytes] = {}
    with _open_tar(devkit, str(devkit)) as tar:
        for member in _files(tar, str(devkit)):
            name = _flat_name(member)
            if name in ("meta.mat", GROUND_TRUTH):
                texts[name] = _read(tar, member, str(devkit))
    for name in ("meta.mat", GROUND_TRUTH):
        if name not in texts:
            raise UserError(f"{devkit}: no {name} in it; give the official ILSVRC2012_devkit_t12.tar.gz")
    try:
        synsets = scipy.io.loadmat(io.BytesIO(texts["meta.mat"]), squeeze_me=True)["synsets"]
        # Inner nodes of the hierarchy have ids as well, but no images of their own.
        leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
        numbers = [int(line) for line in texts[GROUND_TRUTH].split()]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{devkit}: meta.mat or {GROUND_TRUTH} not readable ({error}); download it again") from error
    for line, number in enumerate(numbers, 1):
        if number not in leaves:
            raise UserError(f"{devkit}: line {line} of {GROUND_TRUTH} names class {number}, which meta.mat lacks")
    return [leaves[number] for number in numbers]


def write_manifest(records: Iterable[Record], path: Path) -> None:
    """Write the manifest, whole or not at all; a data set with a manifest is complete.

    Args:
        records: What an extraction returned.
        path: Parquet file with the columns key, class, label (rank of the class in sorted order), bytes, width,
            height, mode, format, sha1; one row per image, sorted by key.
    """
    import pandas

    table = pandas.DataFrame([asdict(record) for record in records]).sort_values("key", ignore_index=True)
    labels = {wnid: label for label, wnid in enumerate(sorted(set(table["wnid"])))}
    table.insert(2, "label", table["wnid"].map(labels).astype("int64"))
    with atomic_path(path) as part:
        table.rename(columns={"wnid": "class"}).to_parquet(part, index=False)


def _check_expect(expect: str) -> None:
    if expect not in EXPECTATIONS:
        raise UserError(f"expect is {expect!r}; set it to one of {', '.join(EXPECTATIONS)}")


@contextmanager
def _open_tar(path: Path, where: str, file: IO[bytes] | None = None) -> Iterator[tarfile.TarFile]:
    """Open a tar (compressed or not) and turn every way in which it can be damaged into one line."""
    try:
        # Only the outer archive may be compressed: the devkit is.
        with tarfile.open(path, "r:*") if file is None else tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except FileNotFoundError as error:
        if error.filename is None or Path(error.filename) != path:
            raise
        raise UserError(f"{path}: no such file; put the official archive there or change its path") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # tarfile lists one line for each compression that it tried.
        cause = str(error).splitlines()[0]
        raise UserError(f"{where}: truncated or not a tar archive ({cause}); download it again") from error


def _files(tar: tarfile.TarFile, where: str) -> Iterator[tarfile.TarInfo]:
    """The archive's regular files, one after the other; refuses whatever could reach outside the target folder."""
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{where}: member {member.name!r} leaves the target folder; do not use this archive")
        if member.isdir():
            continue
        if not member.isreg():
            raise UserError(f"{where}: member {member.name!r} is a link or a device; do not use this archive")
        yield member
    # tarfile takes a cut or damaged header for the end of the archive; a real end is a block of zeros.
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")


def _flat_name(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).name


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    if len(data) != member.size:
        raise UserError(
            f"{where}: truncated within {member.name} ({len(data):,} of {member.size:,} bytes); download it again"
        )
    return data


def _record(data: bytes, wnid: str, name: str, where: str) -> Record:
    """Describe an image from its header."""
    if not data:
        raise UserError(f"{where}: an empty file instead of an image; download the archive again")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height, mode, kind = image.width, image.height, image.mode, image.format or ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a readable image; download the archive again") from error
    return Record(f"{wnid}/{name}", wnid, len(data), width, height, mode, kind, sha1(data).hexdigest())


def _extract_class(
    outer: tarfile.TarFile, member: tarfile.TarInfo, where: str, folder: Path, advance: Advance
) -> list[Record]:
    """Unpack one inner archive into `folder`; files that are already there, whole, are only read over."""
    file = outer.extractfile(member)
    assert file is not None
    records: dict[str, Record] = {}
    with _open_tar(Path(member.name), where, file) as inner:
        done = _sizes(folder) == {_flat_name(image): image.size for image in _files(inner, where)}
        if not done:
            _begin(folder)
        for image in inner.getmembers():
            if not image.isreg():
                continue
            name = _flat_name(image)
            if name in records:
                raise UserError(f"{where}: image {name} comes twice; download the archive again")
            data = _read(inner, image, where)
            records[name] = _record(data, folder.name, name, f"{where}: {image.name}")
            if not done:
                (_part(folder) / name).write_bytes(data)
            advance(1)
    if not records:
        raise UserError(f"{where}: holds no image; download the archive again")
    if not done:
        _finish(folder)
    return list(records.values())


def _part(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _begin(folder: Path) -> None:
    """Make the empty folder in which a class is put together."""
    shutil.rmtree(_part(folder), ignore_errors=True)
    _part(folder).mkdir(parents=True)


def _finish(folder: Path) -> None:
    """Give a class that is whole its name; what an earlier, different archive left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    _part(folder).rename(folder)


def _sizes(folder: Path) -> dict[str, int]:
    """Name and size of the files in a folder; empty when there is none."""
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.is_dir() else {}


def _tidy(out: Path, wnids: set[str]) -> None:
    """Remove what killed runs left, refuse classes of another archive, and get everything onto the disk."""
    for part in out.glob(".*.part"):
        shutil.rmtree(part)
    for folder in sorted(out.iterdir()):
        if folder.is_dir() and folder.name not in wnids:
            raise UserError(f"{folder}: this class is not in the archive; remove the folder or choose another target")
    # One flush for everything: the manifest, written after this, must never outlive the files it lists.
    os.sync()
