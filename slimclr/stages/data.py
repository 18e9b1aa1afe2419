"""Archives to folders to LMDB."""

from pathlib import Path

from slimclr.data.archives import extract_train, extract_val, write_manifest
from slimclr.data.lmdb import write_lmdb
from slimclr.errors import UserError


def extract(split: str, *, archive: Path, devkit: Path | None, expect: str, out: Path) -> None:
    """Unpack one split into `out`/<wnid>/ and write `out`/manifest.parquet last.

    Args:
        split: train or val.
        archive: Its archive; only read.
        devkit: For val: the archive that holds the images' classes.
        expect: ilsvrc2012 or subset.
        out: Folder of the split.
    """
    if split == "train":
        records = extract_train(archive, out, expect=expect)
    elif devkit is None:
        raise UserError("extract val: needs --devkit, the archive that holds the images' classes")
    else:
        records = extract_val(archive, devkit, out, expect=expect)
    write_manifest(records, out / "manifest.parquet")


def convert(*, folder: Path, out: Path) -> None:
    """Put an extracted split into one LMDB.

    Args:
        folder: Folder with `manifest.parquet`.
        out: The database, one file.
    """
    write_lmdb(folder, folder / "manifest.parquet", out)
