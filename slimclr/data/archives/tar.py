"""Reads tars that may be damaged or hostile, in place: also a tar inside a tar, without unpacking it."""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

from slimclr.data.archives.kinds import COMPRESSED, kind_of, other_kind
from slimclr.errors import UserError

# An archive is padded to a multiple of the size in which it was written, 10 KiB unless somebody asked for more.
_BEHIND_THE_END = 1 << 20


def read_at(descriptor: int, offset: int, size: int, where: str) -> bytes:
    """Read a stretch of a file.

    Args:
        descriptor: Of the file.
        offset: Where the stretch begins, in bytes.
        size: Its length.
        where: What is read, for the error message.

    Raises:
        UserError: The file ends before the stretch does.
    """
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise UserError(f"{where}: truncated ({len(data):,} of {size:,} bytes); download it again")
    return data


class Section:
    """A stretch of a file as a file of its own for `tarfile`; reading never leaves it."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self.descriptor, self.start, self.size = descriptor, start, size
        self.position = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes from the position on."""
        data = os.pread(self.descriptor, max(0, min(size, self.size - self.position)), self.start + self.position)
        self.position += len(data)
        return data

    def head(self) -> bytes:
        """Its first bytes, wherever the position is."""
        return os.pread(self.descriptor, min(tarfile.BLOCKSIZE, self.size), self.start)

    def seek(self, position: int) -> None:
        """Set the position."""
        self.position = position

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self.position


@contextmanager
def open_tar(
    path: Path, where: str, section: Section | None = None, *, compressed: bool = False
) -> Iterator[tarfile.TarFile]:
    """Open a tar; every kind of damage becomes a UserError of one line.

    Args:
        path: The file.
        where: What is read, for error messages.
        section: The stretch of the file that is the tar; None takes the whole file.
        compressed: Whether it may be compressed: the devkit is; images are read at their place, so theirs may not be.

    Raises:
        UserError: No such file, not readable, not a tar, or a damaged one.
    """
    mode: Literal["r:*", "r:"] = "r:*" if compressed else "r:"
    try:
        with (
            tarfile.open(path, mode)
            if section is None
            else tarfile.open(fileobj=cast(IO[bytes], section), mode=mode) as tar
        ):
            yield tar
    except (tarfile.TarError, EOFError, OSError) as error:
        # tarfile lists one line for each compression that it tried.
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename is None or Path(error.filename) != path:
                raise
            if isinstance(error, FileNotFoundError):
                cause = "no such file; put the official archive there or change its path"
                raise UserError(f"{path}: {cause}") from error
            raise UserError(f"{path}: {error.strerror}; give a file that can be read") from error
        head = section.head() if section is not None else _head(path)
        if not (compressed and kind_of(head) in COMPRESSED) and (other := other_kind(head, Path(where).name)):
            raise UserError(f"{where}: {other}") from error
        raise UserError(f"{where}: truncated or not a tar archive ({cause}); download it again") from error


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(tarfile.BLOCKSIZE)


def refuse_name(name: str, where: str) -> None:
    """Refuse an archive one of whose members could reach outside the target folder, or cannot be in a list of names."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{where}: member {name!r} leaves the target folder; do not use this archive")
    if is_odd(name):
        raise UserError(f"{where}: member {name!r} has a line break, or no text, in its name; do not use this archive")


def is_odd(name: str) -> bool:
    """Whether a file's name has a control character, or is not UTF-8: lists of names have one a line, and are UTF-8."""
    return re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name) is not None


def files(tar: tarfile.TarFile, where: str) -> Iterator[tarfile.TarInfo]:
    """The archive's regular files, one after the other; refuses whatever could reach outside the target folder."""
    while (member := tar.next()) is not None:
        # tarfile would keep them all: 1.28 million take more than a gigabyte.
        cast(Any, tar).members.clear()
        refuse_name(member.name, where)
        if member.isdir():
            continue
        if flat_name(member) in ("", "."):
            raise UserError(f"{where}: member {member.name!r} is a file without a name; do not use this archive")
        if not member.isreg() or member.issparse():
            raise UserError(f"{where}: member {member.name!r} is a link or a device; do not use this archive")
        yield member
    # tarfile takes a cut or damaged header for the end of the archive; a real end is a block of zeros.
    file: Any = tar.fileobj
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
    if _another_begins(file.read(_BEHIND_THE_END)):
        raise UserError(
            f"{where}: another archive begins behind its end, as when tars are joined with cat; unpack it with "
            "'tar --ignore-zeros' and pack it again"
        )


def _another_begins(behind: bytes) -> bool:
    """Whether what follows an archive's end is more than padding."""
    begin = (len(behind) - len(behind.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    try:
        tarfile.TarInfo.frombuf(behind[begin : begin + tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def flat_name(member: tarfile.TarInfo) -> str:
    """The file name without folders."""
    return member.name.rstrip("/").rpartition("/")[2]


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    """Content of a small member."""
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    if len(data) != member.size:
        raise UserError(
            f"{where}: truncated within {member.name} ({len(data):,} of {member.size:,} bytes); download it again"
        )
    return data
