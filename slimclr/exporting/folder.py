"""The folder that an export fills: an earlier export or nothing, and whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimclr.errors import UserError


def refuse_to_overwrite(out: Path, *, exported: bool, force: bool) -> None:
    """Refuse to write over what is there.

    Args:
        out: The folder.
        exported: It has an earlier export.
        force: Which may be replaced.

    Raises:
        UserError: It has one that may not, or something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not exported:
        raise UserError(f"{out}: there already, and not an earlier export; name another --out")
    if not force:
        raise UserError(f"{out}: an export is there already; give --force to replace it, or name another --out")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, or leaves nothing."""
    part = out.with_name(f"{out.name}.part{os.getpid()}")
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
