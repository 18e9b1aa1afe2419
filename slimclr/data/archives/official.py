"""What ImageNet published of its archives: counts and MD5, which is computed while they are read anyway."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slimclr.errors import UserError

EXPECTATIONS = ("ilsvrc2012", "subset")
ILSVRC2012_CLASSES = 1000
ILSVRC2012_TRAIN_IMAGES = 1_281_167
ILSVRC2012_VAL_IMAGES = 50_000
# MD5 of the archives as ImageNet published them.
MD5 = {
    "train": "1d675b47d978889d74fa0da5fadfb00e",
    "val": "29b22e2961454d5413ddabcf34fc5622",
    "devkit": "fa75699e90414af021442c21a62c3abf",
}
_READ_AHEAD_BYTES = 4 << 20


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
