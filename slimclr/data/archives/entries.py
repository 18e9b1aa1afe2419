"""The entries of an archive or folder, and which of them belong to a split."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from slimclr.data.archives.kinds import is_zip
from slimclr.data.archives.sources import Folder, Members, Source, ZipMembers
from slimclr.data.archives.tar import files, is_odd, open_tar, refuse_name
from slimclr.errors import UserError

# In Kaggle's archive, and in what is unpacked from it.
KAGGLE = "ILSVRC/Data/CLS-LOC"
_WINDOWS = ("thumbs.db", "desktop.ini")


class Entry(NamedTuple):
    """A file of an archive.

    Attributes:
        told: Its name in the archive, for messages.
        path: Its path below the split's folder; empty for a hidden entry.
        member: What its source needs to read it: name, offset, size; more for a zip.
    """

    told: str
    path: str
    member: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.rpartition("/")[2]


def is_hidden(path: str) -> bool:
    """Whether a file is hidden, or one of macOS or Windows: `._*`, `.DS_Store`, `Thumbs.db`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in _WINDOWS


def below(path: str, split: str) -> str | None:
    """An entry's path below the split's folder; None if it belongs to another part of Kaggle's archive."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if "CLS-LOC" in parts:
        at = parts.index("CLS-LOC")
        return "/".join(parts[at + 2 :]) if parts[at - 1] == "Data" and parts[at + 1] == split else None
    return None if parts[-1].startswith("LOC_") else "/".join(parts)


def tar_entries(archive: Path, split: str) -> Iterator[Entry]:
    """The files of a tar that belong to a split; only headers are read.

    Raises:
        UserError: The archive is missing, cut short, unsafe to unpack or something else.
    """
    with open_tar(archive, str(archive)) as tar:
        for member in files(tar, str(archive)):
            path = "" if is_hidden(member.name) else below(member.name, split)
            if path is not None:
                name = member.name.rstrip("/").rpartition("/")[2]
                yield Entry(member.name, path, (name, member.offset_data, member.size))


def zip_entries(archive: Path, split: str) -> Iterator[Entry]:
    """The files of a zip that belong to a split, in the order in which they lie there.

    Raises:
        UserError: The archive is damaged, unsafe to unpack, encrypted or compressed in a way that Python cannot read.
    """
    with open_zip(archive) as file:
        members = sorted(file.infolist(), key=lambda info: info.header_offset)
    for info in members:
        refuse_name(info.filename, str(archive))
        if info.filename and info.is_dir():
            continue
        if info.filename.rpartition("/")[2] in ("", "."):
            raise UserError(f"{archive}: member {info.filename!r} is a file without a name; do not use this archive")
        path = "" if is_hidden(info.filename) else below(info.filename, split)
        if path is None:
            continue
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{archive}: member {info.filename!r} is encrypted, or compressed in an unusual way; unpack the zip "
                "and give the folder"
            )
        name = info.filename.rpartition("/")[2]
        place = (info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC)
        yield Entry(info.filename, path, (name, *place))


def open_zip(archive: Path) -> zipfile.ZipFile:
    """Open a zip.

    Raises:
        UserError: It is damaged.
    """
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise UserError(f"{archive}: truncated or damaged zip archive ({error}); download it again") from error


def entries(archive: Path, split: str) -> Iterator[Entry]:
    """The files of a tar or zip that belong to a split."""
    return zip_entries(archive, split) if is_zip(archive) else tar_entries(archive, split)


def members_of(archive: Path, classes: dict[str, list[tuple[Any, ...]]]) -> list[Source]:
    """Sources of the members of an archive, by class."""
    kind = ZipMembers if is_zip(archive) else Members
    return [kind(wnid, archive, stamp(archive), tuple(members)) for wnid, members in classes.items()]


def stamp(path: Path) -> tuple[int, int]:
    """Size of a file and time of its last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split in an unpacked archive of Kaggle's; any other folder itself."""
    return next((root / name / split for name in (KAGGLE, "CLS-LOC") if (root / name / split).is_dir()), root)


class FileList(NamedTuple):
    """Files of a folder as `(name, size, time of the last change)`, and how many hidden entries are beside them."""

    files: list[tuple[str, int, int]]
    hidden: int


def list_files(folder: Path) -> FileList:
    """The files of a folder, sorted by name.

    Raises:
        UserError: It may not be read.
    """
    try:
        found, hidden = [], 0
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                hidden += 1
            elif entry.is_file():
                if is_odd(entry.name):
                    raise UserError(f"{folder}: {entry.name!r} has a line break, or no text, in its name; rename it")
                status = entry.stat()
                found.append((entry.name, status.st_size, status.st_mtime_ns))
        return FileList(found, hidden)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give a folder that can be read") from error


def class_folders(root: Path) -> tuple[list[Source], int]:
    """The classes of a folder of one folder per class, and how many hidden entries were passed over in these."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give a folder that can be read") from error
    lists = {name: list_files(root / name) for name in names}
    sources: list[Source] = [
        Folder(name, root / name, tuple(found.files)) for name, found in lists.items() if found.files
    ]
    return sources, sum(found.hidden for found in lists.values())
