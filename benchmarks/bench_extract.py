"""Extraction against GNU tar, and archive to LMDB against a folder and a naive conversion. Prints JSON.

    python benchmarks/bench_extract.py [--quick] [--images 2000] [--repeats 5] [--folder /tmp]

GNU tar follows the published recipe: the outer archive to disk, then each inner one, which is removed. "cached" starts
with the archive in the page cache and ends when the last file is closed; "cold" takes it out first and ends
with a sync. The manifest and the SHA-1 of every image are part of our times, importing libraries is not.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archives import (
    alternate,
    evict,
    fill_page_cache,
    machine,
    peak_memory,
    summary,
    write_archive,
)

from slimclr.data.archives.extract import extract_train
from slimclr.data.manifest import MANIFEST, write_manifest

_RECIPE = 'mkdir "$2" && tar -xf "$1" -C "$2" && cd "$2" && for f in *.tar; do mkdir "${f%.tar}" && \
tar -xf "$f" -C "${f%.tar}" && rm "$f"; done'


def gnu_tar(archive: Path, out: Path) -> None:
    """The published recipe."""
    subprocess.run(["bash", "-c", _RECIPE, "-", archive, out], check=True)


def ours(archive: Path, out: Path, jobs: int, lmdb: Path | None = None) -> None:
    """Extraction with manifest."""
    records = extract_train(archive, out, expect="subset", jobs=jobs, lmdb=lmdb)
    write_manifest(records, out / MANIFEST)
    records.remove()


def naive_conversion(folder: Path, out: Path) -> None:
    """Read each file, put it, commit every 5000."""
    import lmdb

    paths = sorted(folder.glob("n*/*"))
    with lmdb.open(str(out), subdir=False, map_size=1 << 40, lock=False) as environment:
        transaction = environment.begin(write=True)
        for index, path in enumerate(paths):
            transaction.put(b"%08d" % index, path.read_bytes())
            if (index + 1) % 5000 == 0:
                transaction.commit()
                transaction = environment.begin(write=True)
        transaction.commit()
        environment.sync(True)


def cores_busy(job: Callable[[], None]) -> dict[str, float]:
    """Seconds of a job, by user and kernel, and how many cores it kept busy."""
    before, start = os.times(), time.perf_counter()
    job()
    after, wall = os.times(), time.perf_counter() - start
    user = after.user + after.children_user - before.user - before.children_user
    kernel = after.system + after.children_system - before.system - before.children_system
    seconds = {"user_s": user, "kernel_s": kernel, "wall_s": wall, "cores": (user + kernel) / wall}
    return {name: round(value, 2) for name, value in seconds.items()}


def run(folder: Path, *, images: int, repeats: int, jobs: int, mean_bytes: int) -> dict[str, Any]:
    """All measurements."""
    where = machine()
    archive, out = folder / "ILSVRC2012_img_train.tar", folder / "out"
    classes = max(1, images // 100)
    write_archive(archive, classes=classes, per_class=images // classes, mean_bytes=mean_bytes)
    size = archive.stat().st_size

    numbers = itertools.count()

    def clean() -> None:
        # Not removed at once: ext4 takes long to create files while inodes freed within five seconds are about.
        out.rename(folder / f"done{next(numbers)}")

    def sweep() -> None:
        for done in folder.glob("done*"):
            shutil.rmtree(done)
        os.sync()
        if repeats > 1:
            time.sleep(6)
            fill_page_cache(folder / "holes")

    def prepare_cached() -> None:
        os.sync()
        archive.read_bytes()

    ours(archive, out, jobs)  # imports what is imported late
    clean()
    sweep()
    both = {"ours": lambda: ours(archive, out, jobs), "gnu_tar": lambda: gnu_tar(archive, out)}
    result: dict[str, Any] = {
        "machine": where,
        "images": images,
        "archive_bytes": size,
        "jobs": jobs,
        "extract_cached": summary(
            alternate(both, repeats=repeats, before=prepare_cached, clean=clean),
            ours="ours",
            other="gnu_tar",
            size=size,
        ),
    }
    sweep()
    seconds = alternate(both, repeats=repeats, before=lambda: evict(archive), after=os.sync, clean=clean)
    result["extract_cold_and_sync"] = summary(seconds, ours="ours", other="gnu_tar", size=size)
    sweep()

    def through_a_folder(extraction: Callable[[], None]) -> None:
        extraction()
        naive_conversion(out, out / "train.lmdb")

    def dd() -> None:
        out.mkdir()
        subprocess.run(["dd", f"if={archive}", f"of={out / 'copy'}", "bs=4M", "conv=fsync", "status=none"], check=True)

    ways = {
        "dd_and_fsync": dd,
        "straight": lambda: ours(archive, out, jobs, out / "train.lmdb"),
        "gnu_tar_then_naive": lambda: through_a_folder(both["gnu_tar"]),
        "ours_then_naive": lambda: through_a_folder(both["ours"]),
    }
    seconds = alternate(ways, repeats=repeats, before=prepare_cached, after=os.sync, clean=clean)
    for other in ("gnu_tar_then_naive", "ours_then_naive"):
        name = f"archive_to_lmdb_against_{other}_cached_and_sync"
        result[name] = summary(seconds, ours="straight", other=other, size=size)
    sweep()
    busy = {"extract_cached": both["ours"], "archive_to_lmdb": ways["straight"]}
    result["cores_busy"] = {}
    for name, job in busy.items():
        prepare_cached()
        result["cores_busy"][name] = cores_busy(job)
        clean()
    for done in folder.glob("done*"):
        shutil.rmtree(done)
    slimclr = [sys.executable, "-m", "slimclr"]
    extraction = [*slimclr, "extract", "--split", "train", "--archive", str(archive), "--expect", "subset"]
    extraction += ["--jobs", str(jobs), "--out", str(out)]
    memory = {
        "extract": extraction,
        "convert": [*slimclr, "convert", "--folder", str(out), "--out", str(folder / "train.lmdb")],
        "straight": [*extraction, "--lmdb", str(folder / "straight.lmdb")],
    }
    result["rss_anon_mb"] = {name: round(peak_memory(arguments) / 1e6) for name, arguments in memory.items()}
    result["bound"] = {
        "extract_cached": "the cores (cores_busy): SHA-1 and headers; in the kernel, page cache and new files",
        "extract_cold_and_sync": "the same, then the disk (dd_and_fsync)",
        "archive_to_lmdb": "the cores (cores_busy), then the disk (dd_and_fsync writes as many bytes)",
    }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with 40 small images, once")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    images, repeats, mean = (40, 1, 4000) if options.quick else (options.images, options.repeats, 110_000)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_extract") as folder:
        result = run(Path(folder), images=images, repeats=repeats, jobs=options.jobs, mean_bytes=mean)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
