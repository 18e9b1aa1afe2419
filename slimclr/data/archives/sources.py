"""Sources: the place of one class's images in an archive or folder, and how they are read there."""

import hashlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from slimclr.data.archives.tar import Section, files, flat_name, open_tar, read_at, read_member
from slimclr.errors import UserError

_ZIP_HEADER = 30
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
        """Changes when the source does, so that records of another source are not used for this one."""

    def open(self) -> AbstractContextManager[Read]:
        """Read single images, in any order."""

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, offset and bytes of every image, in the order in which they lie on the disk."""


class Listing(NamedTuple):
    """What an archive or folder holds.

    Attributes:
        sources: Its classes.
        hidden: Hidden entries passed over on the way to them; those inside class tars are counted when these are read.
    """

    sources: list[Source]
    hidden: int


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
class CompressedTar(InnerTar):
    """A class as a compressed `<wnid>.tar` inside the outer archive: without offsets, so it is read from its start."""

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, offset in the unpacked class tar and bytes of every image."""
        where = f"{self.archive}: {self.wnid}.tar"
        descriptor = os.open(self.archive, os.O_RDONLY)
        try:
            section = Section(descriptor, self.offset, self.bytes)
            with open_tar(self.archive, where, section, compressed=True) as tar:
                for member in files(tar, where):
                    yield flat_name(member), member.offset_data, read_member(tar, member, where)
                # A compressed file's checksum comes last.
                stream: Any = tar.fileobj
                while stream.read(1 << 20):
                    pass
        except (lzma.LZMAError, zlib.error) as error:
            raise UserError(f"{where}: damaged ({error}); download the archive again") from error
        finally:
            os.close(descriptor)

    @contextmanager
    def open(self) -> Iterator[Read]:
        """Hold the whole class in memory, some 150 MB of ImageNet."""
        content = {name: data for name, _, data in self.images()}
        yield lambda name, offset, size: content[name]


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
class ZipMembers(_InArchive):
    """A class as members of a zip: name, offset of the member's header, size, size in the zip, method, CRC-32."""

    members: tuple[tuple[str, int, int, int, int, int], ...]

    @property
    def bytes(self) -> int:
        """Size of its images."""
        return sum(size for _, _, size, *_ in self.members)

    @property
    def identity(self) -> list[int | str]:
        """Changes when the archive does."""
        return [*self.stamp, hashlib.sha1(repr(self.members).encode()).hexdigest()]

    @contextmanager
    def open(self) -> Iterator[Read]:
        """Read single images by the offset of their headers."""
        known = {offset: rest for _, offset, _, *rest in self.members}
        with super().open() as read_raw:

            def read(name: str, offset: int, size: int) -> Content:
                stored, method, checksum = known[offset]
                head = read_raw(name, offset, _ZIP_HEADER)
                # The member's own header may be longer than the directory says: only here its length is known.
                begin = offset + _ZIP_HEADER + int.from_bytes(head[26:28], "little")
                begin += int.from_bytes(head[28:30], "little")
                data = read_raw(name, begin, stored)
                try:
                    data = zlib.decompress(data, -zlib.MAX_WBITS) if method == zipfile.ZIP_DEFLATED else data
                except zlib.error:
                    data = b""
                if head[:4] != b"PK\3\4" or len(data) != size or zlib.crc32(data) != checksum:
                    raise UserError(f"{self.archive}: {name}: damaged, its CRC differs; download the archive again")
                return data

            yield read

    def images(self) -> Iterator[tuple[str, int, Content]]:
        """Name, offset of its header and bytes of every image."""
        with self.open() as read:
            for name, offset, size, *_ in self.members:
                yield name, offset, read(name, offset, size)


@dataclass(frozen=True)
class Folder:
    """A class as image files of a folder (name, size, time of the last change)."""

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
