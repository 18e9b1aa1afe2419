"""What the official ImageNet archives hold and where in them it lies, without unpacking anything.

Each class is a source of images: a tar inside the outer one, scattered members of the flat validation archive, or a
folder that somebody sorted already. A source can be sent to another process, which opens the file for itself.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slimclr.data.tar import Section, files, flat_name, open_tar, read_at, read_member
from slimclr.errors import UserError

EXPECTATIONS = ("ilsvrc2012", "subset")
ILSVRC2012_CLASSES = 1000
ILSVRC2012_TRAIN_IMAGES = 1_281_167
ILSVRC2012_VAL_IMAGES = 50_000
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# MD5 of the archives as ImageNet published them.
MD5 = {
    "train": "1d675b47d978889d74fa0da5fadfb00e",
    "val": "29b22e2961454d5413ddabcf34fc5622",
    "devkit": "fa75699e90414af021442c21a62c3abf",
}
_READ_AHEAD_BYTES = 4 << 20

# Sources have an attribute of the built-in's name.
Content = bytes
Read = Callable[[str, int, int], Content]
"""Name, offset and size of an image to its bytes."""


class Source(Protocol):
    """Where the images of one class come from."""

    @property
    def wnid(self) -> str:
        """The class."""

    @property
    def bytes(self) -> int:
        """About how many bytes its images have together."""

    @property
    def identity(self) -> list[int | str]:
        """Changes when the source does: what is known of another source must not be taken for this one's."""

    def open(self) -> AbstractContextManager[Read]:
        """Read single images, in any order."""

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, offset and bytes of every image, in the order in which they lie on the disk."""


@dataclass(frozen=True)
class _InArchive:
    wnid: str
    archive: Path
    stamp: tuple[int, int]
    """Size of the archive and time of its last change."""

    @contextmanager
    def open(self) -> Iterator[Read]:
        descriptor = os.open(self.archive, os.O_RDONLY)
        try:
            yield lambda name, offset, size: read_at(descriptor, offset, size, f"{self.archive}: {name}")
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class InnerTar(_InArchive):
    """A class as `<wnid>.tar` inside the outer archive."""

    offset: int
    bytes: int

    @property
    def identity(self) -> list[int | str]:
        """Changes when the archive does."""
        return [*self.stamp, self.offset, self.bytes]

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, offset in the outer archive and bytes of every image."""
        where = f"{self.archive}: {self.wnid}.tar"
        descriptor = os.open(self.archive, os.O_RDONLY)
        try:
            # A longer read-ahead: several classes are read at the same time.
            os.posix_fadvise(descriptor, self.offset, self.bytes, os.POSIX_FADV_SEQUENTIAL)
            with open_tar(self.archive, where, Section(descriptor, self.offset, self.bytes)) as tar:
                for member in files(tar, where):
                    left = self.bytes - member.offset_data
                    if member.size > left:
                        raise UserError(
                            f"{where}: truncated within {member.name} ({max(0, left):,} of {member.size:,} bytes); "
                            "download it again"
                        )
                    offset = self.offset + member.offset_data
                    yield flat_name(member), offset, read_at(descriptor, offset, member.size, where)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Members(_InArchive):
    """A class as scattered members (name, offset, size) of a flat archive."""

    members: tuple[tuple[str, int, int], ...]

    @property
    def bytes(self) -> int:
        """Size of its images."""
        return sum(size for _, _, size in self.members)

    @property
    def identity(self) -> list[int | str]:
        """Changes when the archive or the classes of its images do."""
        return [*self.stamp, hashlib.sha1(repr(self.members).encode()).hexdigest()]

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, offset and bytes of every image."""
        with self.open() as read:
            for name, offset, size in self.members:
                yield name, offset, read(name, offset, size)


@dataclass(frozen=True)
class Folder:
    """A class as a folder of image files (name, size, time of the last change)."""

    wnid: str
    folder: Path
    files: tuple[tuple[str, int, int], ...]

    @property
    def bytes(self) -> int:
        """Size of its images."""
        return sum(size for _, size, _ in self.files)

    @property
    def identity(self) -> list[int | str]:
        """Changes when a file is added, removed or written."""
        return [hashlib.sha1(repr(self.files).encode()).hexdigest()]

    @contextmanager
    def open(self) -> Iterator[Read]:
        """Read single files; their offset is 0."""

        def read(name: str, offset: int, size: int) -> Content:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
            try:
                return read_at(descriptor, offset, size, f"{self.folder / name}")
            finally:
                os.close(descriptor)

        yield read

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, 0 and bytes of every image."""
        with self.open() as read:
            for name, size, _ in self.files:
                yield name, 0, read(name, 0, size)


def train_sources(archive: Path) -> list[Source]:
    """The classes of `ILSVRC2012_img_train.tar`, a tar of one `<wnid>.tar` per class, in the archive's order.

    Only the outer headers are read.

    Raises:
        UserError: The archive is missing, cut short, unsafe to unpack or something else.
    """
    sources: dict[str, Source] = {}
    with open_tar(archive, str(archive)) as tar:
        stamp = _stamp(archive)
        for member in files(tar, str(archive)):
            wnid, dot, suffix = flat_name(member).partition(".")
            if not wnid or dot + suffix != ".tar":
                raise UserError(
                    f"{archive}: member {member.name!r} is not a class archive <wnid>.tar; give the official "
                    "ILSVRC2012_img_train.tar (a tar of one tar per class)"
                )
            if wnid in sources:
                raise UserError(f"{archive}: class {wnid} comes twice; keep one {wnid}.tar in the archive")
            sources[wnid] = InnerTar(wnid, archive, stamp, member.offset_data, member.size)
    if not sources:
        raise UserError(f"{archive}: holds no class archive; give the official ILSVRC2012_img_train.tar")
    return list(sources.values())


def val_sources(archive: Path, classes: Path | None, *, expect: str) -> list[Source]:
    """The classes of the validation images.

    Args:
        archive: The flat `ILSVRC2012_img_val.tar`, or a folder of one folder per class.
        classes: For an archive: `ILSVRC2012_devkit_t12.tar.gz`, or a text file (`*.txt`) of lines `name wnid`.
        expect: "ilsvrc2012" asks for 50,000 images, "subset" for as many as `classes` names.

    Raises:
        UserError: Something is missing, damaged or unsafe to unpack, or images and classes do not fit.
    """
    if archive.is_dir():
        return _sorted_folder(archive)
    if classes is None:
        raise UserError(
            f"{archive}: the classes of its images are missing; give the devkit, or a text file of lines 'name wnid'"
        )
    wanted = read_classes(classes)
    if expect == "ilsvrc2012" and len(wanted) != ILSVRC2012_VAL_IMAGES:
        raise UserError(
            f"{classes}: ground truth of {len(wanted):,} images instead of {ILSVRC2012_VAL_IMAGES:,}; download it "
            "again, or set expect to 'subset' if it is one on purpose"
        )
    found: dict[str, tuple[int, int]] = {}
    # Names only. What is wrong with the archive as a whole is said before anything is written.
    with open_tar(archive, str(archive)) as tar:
        stamp = _stamp(archive)
        for member in files(tar, str(archive)):
            name = flat_name(member)
            if name not in wanted:
                raise UserError(
                    f"{archive}: member {member.name!r} is not among the {len(wanted):,} images of the ground truth "
                    f"in {classes}; give archives that belong together"
                )
            if name in found:
                raise UserError(f"{archive}: member {member.name!r} comes twice; download the archive again")
            found[name] = (member.offset_data, member.size)
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise UserError(
            f"{archive}: {missing} is missing ({len(found):,} images, the ground truth in {classes} has "
            f"{len(wanted):,}); download the archive again"
        )
    members: dict[str, list[tuple[str, int, int]]] = {}
    for name, (offset, size) in found.items():
        members.setdefault(wanted[name], []).append((name, offset, size))
    return [Members(wnid, archive, stamp, tuple(members[wnid])) for wnid in sorted(members)]


def read_classes(path: Path) -> dict[str, str]:
    """The class of every validation image.

    Args:
        path: `ILSVRC2012_devkit_t12.tar.gz`, or a text file (`*.txt`) of lines `name wnid`.

    Returns:
        File name to WordNet id.

    Raises:
        UserError: The file is missing, damaged, names an image twice or names classes by index.
    """
    if path.suffix != ".txt":
        wnids = read_ground_truth(path)
        return {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number, wnid in enumerate(wnids, 1)}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error}); write lines 'name wnid' into it") from error
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or any("/" in word or word.startswith(".") for word in words):
            raise UserError(f"{path}: line {number}, {line[:80]!r}, is not 'name wnid'; correct it")
        if words[0] in classes:
            raise UserError(f"{path}: line {number} names {words[0]} again; keep one line per image")
        classes[words[0]] = words[1]
    if not classes:
        raise UserError(f"{path}: empty; write a line 'name wnid' per image")
    if all(map(str.isdecimal, classes.values())):
        # As Caffe's val.txt has it, and others that count classes in another order.
        raise UserError(
            f"{path}: name and index, not wnid: {' '.join(next(iter(classes.items())))!r}; which class an index means "
            "depends on who counted: write lines 'name wnid' (n01440764), or give ILSVRC2012_devkit_t12.tar.gz"
        )
    return classes


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
    with open_tar(devkit, str(devkit), compressed=True) as tar:
        for member in files(tar, str(devkit)):
            name = flat_name(member)
            if name in ("meta.mat", GROUND_TRUTH):
                texts[name] = read_member(tar, member, str(devkit))
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
    wrong = next((wnid for wnid in leaves.values() if not wnid or "/" in wnid or wnid.startswith(".")), None)
    if wrong is not None:
        raise UserError(f"{devkit}: meta.mat names a class {wrong!r}; do not use this archive")
    return [leaves[number] for number in numbers]


def check_md5(path: Path, md5: str) -> None:
    """Compare a small file's MD5, in hexadecimal.

    Raises:
        UserError: It differs, or the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; put the official archive there or change its path") from error
    _compare(path, found, md5)


@contextmanager
def reading_through(path: Path, md5: str | None) -> Iterator[Callable[[], None]]:
    """Read an archive front to back in a thread while others read parts of it.

    MD5 can only be computed in order, and by one processor. Its reader runs beside the workers: what either reads
    first, the other finds in the page cache, so that the disk still delivers every byte once as long as the distance
    between them fits into memory.

    Args:
        path: The archive.
        md5: What its MD5 must be, in hexadecimal; None only reads, which spares scattered reads of a flat archive.

    Yields:
        A function to call before anything is declared complete: waits, and raises UserError when the MD5 differs.
    """
    digest = hashlib.md5(usedforsecurity=False)
    stopped = threading.Event()
    errors: list[OSError] = []

    def read() -> None:
        buffer = memoryview(bytearray(_READ_AHEAD_BYTES))
        try:
            with open(path, "rb", buffering=0) as file:
                while (count := file.readinto(buffer)) and not stopped.is_set():
                    if md5 is not None:
                        digest.update(buffer[:count])
        except OSError as error:
            errors.append(error)

    def check() -> None:
        if md5 is None:
            return
        thread.join()
        if errors:
            raise errors[0]
        _compare(path, digest.hexdigest(), md5)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stopped.set()
        thread.join()


def _compare(path: Path, found: str, md5: str) -> None:
    if found != md5.lower():
        raise UserError(f"{path}: MD5 {found} instead of {md5.lower()}; download it again, or do not check its MD5")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _sorted_folder(root: Path) -> list[Source]:
    """The classes of a folder of one folder per class; hidden entries are left out."""
    sources: list[Source] = []
    try:
        for folder in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."):
            found = []
            for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
                if entry.is_file() and entry.name[0] != ".":
                    status = entry.stat()
                    found.append((entry.name, status.st_size, status.st_mtime_ns))
            if found:
                sources.append(Folder(folder, root / folder, tuple(found)))
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give a folder that can be read") from error
    if not sources:
        raise UserError(f"{root}: no class folders with images; sort them into <wnid>/, or give the official archive")
    return sources
