"""Memory of the data stages at ImageNet's number of images, which have next to no bytes. Prints JSON.

    python benchmarks/bench_memory.py [--quick] [--images 1281167] [--folder /tmp]

What grows with the number of images is what is known of them: records, manifest, report, tables of the database. Each
step is a process of its own that runs the stages' code; reading an archive or files is left out, which holds one class
or a few megabytes whatever the number of images. 200 images beside it show what a process takes anyway.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from typing import Any

from archives import machine, peak_memory

from slimclr.data.archives import ILSVRC2012_CLASSES, ILSVRC2012_TRAIN_IMAGES
from slimclr.data.archives.extract import _known
from slimclr.data.archives.records import ClassRecord, Records, boot
from slimclr.data.archives.report import write_report
from slimclr.data.manifest import MANIFEST, REPORT, Record, write_manifest
from slimclr.data.stores import convert as convert_module
from slimclr.data.stores import lmdb_writer as lmdb_module
from slimclr.data.stores.convert import write_lmdb
from slimclr.data.stores.lmdb import Entry
from slimclr.data.stores.lmdb_writer import LMDBWriter
from slimclr.data.stores.verify import verify

_DATA = b"image"
# The images of one commit: with ImageNet's mean size 76 have the megabytes that a commit has.
_COMMIT_IMAGES = 4096


class Class:
    """A source as far as its record asks for it.

    Attributes:
        wnid: The class.
        identity: As its record has it.
    """

    def __init__(self, wnid: str) -> None:
        self.wnid = wnid
        self.identity: list[int | str] = [0]


def classes_of(images: int) -> list[str]:
    """Names of ImageNet's length."""
    return [f"n{index:08d}" for index in range(min(images, ILSVRC2012_CLASSES))]


def write_records(folder: Path, images: int) -> None:
    """What extraction leaves of its classes, with keys and sums of ImageNet's length."""
    wnids = classes_of(images)
    records = Records(folder / ".records", wnids)
    records.folder.mkdir(parents=True)
    for index, wnid in enumerate(wnids):
        rows = []
        for number in range(index, images, len(wnids)):
            key, checksum = f"{wnid}/{wnid}_{number:07d}.JPEG", sha1(b"%d" % number).hexdigest()
            rows.append(Record(key, wnid, len(_DATA), 500, 375, "RGB", "JPEG", checksum, 1, 0))
        records.save(wnid, ClassRecord([0], "structure", boot(), sorted(rows), []))


def report_and_manifest(folder: Path, images: int) -> None:
    """The end of the extract stage."""
    records = Records(folder / ".records", classes_of(images))
    write_report(records, folder / REPORT)
    write_manifest(records, folder / MANIFEST)


def straight(folder: Path, images: int) -> None:
    """The database while an archive is put straight into it, begun again when all but the last class is in it."""
    sources: list[Any] = [Class(wnid) for wnid in classes_of(images)]
    records = Records(folder / ".records", [source.wnid for source in sources])

    def fill(known: Iterator[Entry], new: Iterator[Entry], *, finish: bool) -> None:
        with LMDBWriter(folder / "straight.lmdb", known) as writer:
            for entry in new:
                writer.add(entry, _DATA)
            writer.commit()
            if finish:
                writer.finish()

    fill(iter(()), _known(sources[:-1], records, "structure"), finish=False)
    fill(_known(sources, records, "structure"), _known(sources[-1:], records, "structure"), finish=True)


def convert(folder: Path, images: int) -> None:
    """The convert stage, which is given the same bytes for every file."""
    convert_module.read_checked = lambda path, entry: _DATA
    write_lmdb(folder, folder / MANIFEST, folder / "train.lmdb")


def verify_database(folder: Path, images: int) -> None:
    """`slimclr verify` of a database with its manifest."""
    verify(folder / "train.lmdb", manifest=folder / MANIFEST)


STEPS = {
    "report_and_manifest": report_and_manifest,
    "straight": straight,
    "convert": convert,
    "verify": verify_database,
}


def run(folder: Path, *, images: int) -> dict[str, Any]:
    """All measurements."""
    result: dict[str, Any] = {"machine": machine(), "images": images, "rss_anon_mb": {}, "rss_anon_mb_of_200": {}}
    for count, name in ((200, "rss_anon_mb_of_200"), (images, "rss_anon_mb")):
        data = folder / str(count)
        write_records(data, count)
        for step in STEPS:
            command = [sys.executable, __file__, "--images", str(count), "--folder", str(data), "--step", step]
            result[name][step] = round(peak_memory(command) / 1e6)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with 2,000 images")
    parser.add_argument("--images", type=int, default=ILSVRC2012_TRAIN_IMAGES)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--step", choices=STEPS, help="only do this, in a folder that has what it needs")
    options = parser.parse_args()
    if options.step:
        lmdb_module._COMMIT_EVERY_BYTES = _COMMIT_IMAGES * len(_DATA)
        STEPS[options.step](options.folder, options.images)
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_memory") as folder:
        result = run(Path(folder), images=2000 if options.quick else options.images)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
