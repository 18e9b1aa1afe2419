"""A data set to RecordIO files."""

from pathlib import Path

from slimclr.data.archives.extract import available_jobs
from slimclr.data.stores.recordio_writer import write_recordio
from slimclr.errors import UserError


def recordio(*, data: Path, out: Path, resize: int | None, quality: int, jobs: int | None) -> None:
    """Write `out` and the .idx and .lst beside it.

    Args:
        data: An LMDB or a folder of classes.
        out: The records, `<name>.rec`.
        resize: Shorter side that larger images are scaled down to; None keeps every byte.
        quality: JPEG quality of images that are scaled down.
        jobs: Processes that prepare images; None: one per available core, at most 8.
    """
    if out.suffix != ".rec":
        raise UserError(f"--out {out}: must end in .rec")
    if resize is not None and resize < 1:
        raise UserError(f"--resize {resize}: must be at least 1 pixel")
    if not 1 <= quality <= 95:
        raise UserError(f"--quality {quality}: must be between 1 and 95")
    jobs = available_jobs() if jobs is None else jobs
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: must be at least 1")
    write_recordio(data, out, resize=resize, quality=quality, jobs=jobs)
