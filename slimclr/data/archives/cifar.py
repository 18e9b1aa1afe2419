"""CIFAR-10 from its official Python batches, or from images in folders or an archive of folders.

A source is a folder or an archive (tar, compressed or not; zip) with one of these in it, at any depth:
    data_batch_1 ... data_batch_5, test_batch               the official batches of `cifar-10-python.tar.gz`
    train/<class>/<image>, test/<class>/<image>             images, whose bytes stay as they are
"""

import hashlib
import io
import lzma
import pickle
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from slimclr.data.archives.kinds import is_zip
from slimclr.data.archives.tar import files, open_tar, read_member, refuse_name
from slimclr.data.images.check import describe
from slimclr.data.manifest import MANIFEST, Record, write_manifest
from slimclr.data.stores.convert import write_lmdb
from slimclr.errors import UserError
from slimclr.progress import progress

# The label is the rank, and the order of the alphabet too.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The published files with their MD5, as torchvision.datasets.CIFAR10 has them.
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
SPLITS = {"train": "train", "test": "val"}
SIDE = 32
# All that a pickled array of numbers is made of; the module's name depends on the numpy that wrote it.
_ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
_SUFFIXES = (".png", ".jpg", ".jpeg")


def write_cifar(source: Path, out: Path) -> None:
    """Write `<out>/train.lmdb` and `<out>/val.lmdb`, each whole or not at all, once all of the source has been read.

    Args:
        source: The official batches or images, in a folder or an archive; see above.
        out: Folder of the databases. Keys are `<class>/<batch>_<row>.png` or `<class>/<file name>`; a label is the
            class's rank in the alphabet, which for CIFAR-10 is the official label.

    Raises:
        UserError: The source is missing, truncated, unsafe, incomplete, or neither of the two.
    """
    part = out / ".cifar.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        records: dict[str, list[Record]] = {split: [] for split in SPLITS.values()}
        with progress(f"read {source.name}", None) as advance:
            for split, key, data in read_cifar(source):
                path = part / split / key
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    raise UserError(f"{source}: image {key} of {split} comes twice; get it again")
                records[split].append(_record(key, data, source))
                path.write_bytes(data)
                advance(1)
        classes = {split: {record.wnid for record in records[split]} for split in records}
        if not all(classes.values()):
            raise UserError(
                f"{source}: not both train and test of CIFAR-10's batches (data_batch_1 to 5, test_batch) or of images "
                "(train/<class>/<image>, test/<class>/<image>); give one of these"
            )
        if odd := classes["train"] ^ classes["val"]:
            raise UserError(f"{source}: class {min(odd)} is not in both train and test; get it again")
        for split in records:
            records[split].sort(key=lambda record: (record.wnid, record.name))
            write_manifest(records[split], part / split / MANIFEST)
            write_lmdb(part / split, part / split / MANIFEST, out / f"{split}.lmdb")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_cifar(source: Path) -> Iterator[tuple[str, str, bytes]]:
    """The images of a source, one after the other, in the source's order.

    Yields:
        Split (train or val), `<class>/<file name>` and the encoded image: the source's own bytes, or a PNG of a batch's
        pixels, which loses nothing.
    """
    batches = set()
    images = False
    for path, data in _members(source):
        if path.name not in BATCHES:
            images = True
            yield SPLITS[path.parts[-3]], f"{path.parts[-2]}/{path.name}", data
        elif path.name in batches:
            raise UserError(f"{source}: {path.name} comes twice; give the folder or archive of one CIFAR-10")
        else:
            batches.add(path.name)
            yield from _read_batch(path.name, data, source)
    if batches and images:
        raise UserError(f"{source}: has both batches and images of CIFAR-10; give one of the two")
    if batches and (missing := BATCHES.keys() - batches):
        raise UserError(f"{source}: {min(missing)} is missing; get the official cifar-10-python.tar.gz again")


def _record(key: str, data: bytes, source: Path) -> Record:
    try:
        width, height, mode, kind, orientation = describe(data, "structure")
    except ValueError as error:
        raise UserError(f"{source}: {key}: {error} instead of an image; get it again") from error
    checksum = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return Record(key, key.partition("/")[0], len(data), width, height, mode, kind, checksum, orientation, 0)


def _read_batch(name: str, data: bytes, source: Path) -> Iterator[tuple[str, str, bytes]]:
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != BATCHES[name]:
        print(f"{source}: note: {name} is not the published file (another MD5)", file=sys.stderr)
    batch = _unpickle(data, f"{source}: {name}")
    pixels, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(labels, list)
        or not all(isinstance(label, int) and 0 <= label < len(CLASSES) for label in labels)
        or not isinstance(pixels, np.ndarray)
        or (pixels.dtype, pixels.shape) != (np.dtype(np.uint8), (len(labels), 3 * SIDE * SIDE))
    ):
        raise UserError(f"{source}: {name}: no batch of CIFAR-10 (data and labels of 32 x 32 images); get it again")
    split = "val" if name == "test_batch" else "train"
    # A row is the red, then the green, then the blue plane.
    for row, (image, label) in enumerate(zip(pixels.reshape(-1, 3, SIDE, SIDE), labels, strict=True)):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "PNG")
        yield split, f"{CLASSES[label]}/{name}_{row:05d}.png", file.getvalue()


class _Unpickler(pickle.Unpickler):
    """Puts arrays of numbers together and nothing else: a pickle can otherwise run any program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")
        return super().find_class(module, name)


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    try:
        # The batches were written by Python 2, whose strings are bytes.
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    # A damaged pickle can fail in any way.
    except Exception as error:
        raise UserError(f"{where}: not a readable batch ({error}); get the official one again") from error
    return value if isinstance(value, dict) else {}


def _wanted(path: PurePosixPath) -> bool:
    """Whether a file is a batch or an image; hidden files are not."""
    image = len(path.parts) >= 3 and path.parts[-3] in SPLITS and path.suffix.lower() in _SUFFIXES
    return path.name in BATCHES or (image and path.name[0] != ".")


def _members(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path and content of the batches and images in a folder or an archive."""
    if source.is_dir():
        for file in sorted(source.rglob("*")):
            path = PurePosixPath(file.relative_to(source))
            if _wanted(path) and file.is_file():
                yield path, file.read_bytes()
    elif is_zip(source):
        yield from _zip_members(source)
    else:
        yield from _tar_members(source)


def _tar_members(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with open_tar(source, str(source), compressed=True) as tar:
            for member in files(tar, str(source)):
                path = PurePosixPath(member.name)
                if _wanted(path):
                    yield path, read_member(tar, member, str(source))
            # A compressed file's checksum comes last.
            file: Any = tar.fileobj
            while file.read(1 << 20):
                pass
    except (lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{source}: damaged ({error}); get it again") from error


def _zip_members(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                path = PurePosixPath(member.filename)
                refuse_name(member.filename, str(source))
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise UserError(f"{source}: member {member.filename!r} is a link; do not use this archive")
                if _wanted(path) and not member.is_dir():
                    yield path, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{source}: damaged or encrypted zip archive ({error}); get it again") from error
