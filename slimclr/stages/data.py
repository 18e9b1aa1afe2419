"""Archives to folders to LMDB, or straight to LMDB."""

import os
from pathlib import Path

from slimclr.data.archives import MD5, check_md5
from slimclr.data.archives.classes import check_other_split
from slimclr.data.archives.extract import Options, available_jobs, extract_train, extract_val
from slimclr.data.archives.kinds import is_zip
from slimclr.data.archives.report import write_report
from slimclr.data.manifest import MANIFEST, REPORT, write_manifest
from slimclr.data.stores.convert import write_lmdb
from slimclr.data.stores.resized import write_resized_lmdb
from slimclr.errors import UserError


def extract(
    split: str,
    *,
    archive: Path,
    devkit: Path | None,
    expect: str,
    out: Path,
    lmdb: Path | None = None,
    check_images: str = "structure",
    on_corrupt: str = "stop",
    official_md5: bool = False,
    md5: str | None = None,
    jobs: int | None = None,
    other: Path | None = None,
) -> None:
    """Unpack one split into `out`/<wnid>/ or an LMDB; then write `out`/data_report.json and, last, manifest.parquet.

    Args:
        split: train or val.
        archive: Its archive or folder, see `slimclr.data.archives`; only read.
        devkit: For val, also as `other`, unless it is a folder of class folders: what holds the images' classes.
        expect: ilsvrc2012 or subset.
        out: Folder of the split.
        lmdb: Database to write instead of the folders.
        check_images: structure or decode.
        on_corrupt: stop or skip.
        official_md5: Compare MD5 with what ImageNet published.
        md5: MD5 that the archive must have instead.
        jobs: Worker processes; None takes the processors that are there.
        other: Archive or folder of the other split: where it is there, both must have the same classes.
    """
    if other is not None:
        check_other_split(split, archive, devkit, other)
    jobs = available_jobs() if jobs is None else jobs
    if official_md5 and (archive.is_dir() or is_zip(archive)):
        raise UserError(f"{archive}: ImageNet published the MD5 of its tars only; do not check this one's (check_md5)")
    wanted = md5 or (MD5[split] if official_md5 else None)
    options: Options = {
        "lmdb": lmdb,
        "check_images": check_images,
        "on_corrupt": on_corrupt,
        "jobs": jobs,
        "md5": wanted,
    }
    if split == "train":
        records = extract_train(archive, out, expect=expect, **options)
    else:
        if devkit is None and not archive.is_dir():
            raise UserError("extract val: needs --devkit, the archive that holds the images' classes")
        if official_md5 and devkit is not None:
            check_md5(devkit, MD5["devkit"])
        records = extract_val(archive, devkit, out, expect=expect, **options)
    # One flush for everything: the manifest, written after this, must never outlive the files it lists.
    os.sync()
    print(f"{split}: {write_report(records, out / REPORT)}", flush=True)
    write_manifest(records, out / MANIFEST)
    records.remove()


def convert(
    *, folder: Path, out: Path, shorter_side: int | None = None, quality: int = 90, jobs: int | None = None
) -> None:
    """Put an extracted split into one LMDB.

    Args:
        folder: Folder with `manifest.parquet`.
        out: The database, one file.
        shorter_side: Larger images are scaled down to this many pixels; None keeps every byte.
        quality: JPEG quality of images that are scaled down.
        jobs: Threads that scale down; None: as many as there are cores.
    """
    if shorter_side is None:
        write_lmdb(folder, folder / MANIFEST, out)
        return
    if not 1 <= quality <= 95:
        raise UserError(f"--quality {quality}: must be between 1 and 95")
    threads = available_jobs() if jobs is None else jobs
    write_resized_lmdb(folder, folder / MANIFEST, out, shorter_side=shorter_side, quality=quality, threads=threads)
