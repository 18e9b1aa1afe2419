"""Checks free disk space before a data set is written."""

import shutil
from pathlib import Path

from slimclr.errors import UserError


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start writing if the disk has too little space.

    Args:
        folder: Where it will be written; need not exist yet.
        needed: Bytes.

    Raises:
        UserError: There is less space.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{folder}: needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; free space, or set paths.work to "
            "a larger disk"
        )
