"""A data set as a folder with one subfolder per class."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from slimclr.errors import UserError


class FolderImages:
    """Encoded images below `<root>/<class>/`; classes and files in sorted order, hidden ones left out.

    Attributes:
        classes: Names of the class folders; the label is the rank.
        keys: `<class>/<file name>` of every image.
        labels: int64, (images,).

    Raises:
        UserError: No such folder, or no image in it.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; run the extract stage first, or correct the path")
        suffixes = Image.registered_extensions().keys()
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
        files = {
            name: sorted(
                file.name
                for file in os.scandir(self.root / name)
                if file.is_file() and file.name[0] != "." and os.path.splitext(file.name)[1].lower() in suffixes
            )
            for name in folders
        }
        self.classes = [name for name in folders if files[name]]
        if not self.classes:
            raise UserError(f"{root}: no images in class folders (<class>/<image>.JPEG); run the extract stage first")
        self.keys = [f"{name}/{file}" for name in self.classes for file in files[name]]
        counts = [len(files[name]) for name in self.classes]
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> bytes:
        """The image's bytes as they were in the archive."""
        path = self.root / self.keys[index]
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{path}: gone since the run began; extract the archive again") from error
