"""Photos without labels: a file, a folder, a list of files, or a data set whose labels do not matter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from slimclr.data.stores import open_images
from slimclr.errors import UserError


class Photos(Protocol):
    """Encoded images with names; what `Images` of data sets have, too."""

    @property
    def keys(self) -> Sequence[str]:
        """The names, in order."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """The file's content."""


class FilePhotos:
    """Files by path.

    Attributes:
        keys: What they are called.
    """

    def __init__(self, paths: Sequence[Path], keys: Sequence[str]) -> None:
        self._paths, self.keys = paths, keys

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """The file's content.

        Raises:
            OSError: It cannot be read.
        """
        return self._paths[index].read_bytes()


def open_photos(path: Path) -> Photos:
    """Photos to look at.

    Args:
        path: An image; a folder, of which every file is taken, sorted by name, hidden ones left out; a list (`.txt`) of
            a path in each line, relative to the working directory; or a data set (`.lmdb`, `.rec`).

    Raises:
        UserError: No such path, or no file in it.
    """
    if path.suffix in (".lmdb", ".rec"):
        return open_images(path)
    if path.is_dir():
        below = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
        names = [name for name in below if not any(part.startswith(".") for part in name.parts)]
        if not names:
            raise UserError(f"{path}: no file in this folder; correct the path")
        return FilePhotos([path / name for name in names], [name.as_posix() for name in names])
    if not path.exists():
        raise UserError(f"{path}: no such image, folder, list or data set; correct the path")
    if path.suffix == ".txt":
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not a list of paths ({error}); write one path in each line") from None
        lines = [line for line in lines if line]
        if not lines:
            raise UserError(f"{path}: an empty list; write one path in each line")
        return FilePhotos([Path(line) for line in lines], lines)
    return FilePhotos([path], [path.name])
