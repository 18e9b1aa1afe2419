"""Data stores: folders, LMDB and RecordIO, how they are written, verified, and copied to a node's own disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from slimclr.errors import UserError

if TYPE_CHECKING:
    from slimclr.data.stores.folder import FolderImages
    from slimclr.data.stores.lmdb import LMDBImages
    from slimclr.data.stores.recordio import RecordImages


def open_images(path: Path | str) -> "FolderImages | LMDBImages | RecordImages":
    """Open a data set: an LMDB (`*.lmdb`), RecordIO files (`*.rec`) or a folder of one folder per class.

    Raises:
        UserError: The path does not exist, or is none of the three.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such data set; run the extract and convert stages first, or correct the path")
    if path.is_dir():
        from slimclr.data.stores.folder import FolderImages

        return FolderImages(path)
    if path.suffix == ".lmdb":
        from slimclr.data.stores.lmdb import LMDBImages

        return LMDBImages(path)
    if path.suffix == ".rec":
        from slimclr.data.stores.recordio import RecordImages

        return RecordImages(path)
    raise UserError(f"{path}: not a data set; give a folder of one folder per class, an .lmdb or a .rec file")
