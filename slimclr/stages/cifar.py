"""CIFAR-10 to LMDB."""

from pathlib import Path

from slimclr.data.archives.cifar import write_cifar
from slimclr.errors import UserError


def cifar(*, source: Path, out: Path) -> None:
    """Write `out`/train.lmdb and `out`/val.lmdb.

    Args:
        source: The official batches or images, in a folder or an archive.
        out: Folder of the databases.
    """
    if not source.exists():
        raise UserError(f"--source {source}: no such file or folder; put CIFAR-10 there or correct the path")
    write_cifar(source, out)
