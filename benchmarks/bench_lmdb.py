"""Reading an LMDB against reading the files of the folder: raw bytes, in order and at random. Prints JSON.

    python benchmarks/bench_lmdb.py [--quick] [--images 2000] [--repeats 5] [--folder /tmp]

Both are read through the objects that the loaders use, in one process.
"""

import argparse
import contextlib
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from archives import alternate, can_drop_caches, drop_caches, machine, summary, write_archive

from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages
from slimclr.stages.data import convert, extract


def run(folder: Path, *, images: int, repeats: int, mean_bytes: int) -> dict[str, Any]:
    """All measurements."""
    where = machine()
    archive, split, database = folder / "ILSVRC2012_img_train.tar", folder / "train", folder / "train.lmdb"
    classes = max(1, images // 100)
    write_archive(archive, classes=classes, per_class=images // classes, mean_bytes=mean_bytes)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the JSON alone
        extract("train", archive=archive, devkit=None, expect="subset", out=split)
    convert(folder=split, out=database)
    orders = {"sequential": np.arange(images), "random": np.random.default_rng(1).permutation(images)}
    size = sum(path.stat().st_size for path in split.glob("n*/*"))
    readers: dict[str, Any] = {}

    def open_readers() -> None:
        readers.update(lmdb=LMDBImages(database), folder=FolderImages(split))

    def open_readers_cold() -> None:
        readers.clear()  # what is mapped into memory would stay there
        gc.collect()
        drop_caches()
        open_readers()

    open_readers()
    result: dict[str, Any] = {"machine": where, "images": images, "bytes": size}
    for temperature in ("warm", "cold"):
        if temperature == "cold" and not can_drop_caches():
            continue
        seconds: dict[str, dict[str, list[float]]] = {}
        for order, indices in orders.items():

            def read(name: str, indices: np.ndarray = indices) -> None:
                images = readers[name]
                for index in indices:
                    images.read(int(index))

            for name in list(readers):  # into the cache
                read(name)
            seconds[order] = alternate(
                {name: (lambda name=name, read=read: read(name)) for name in readers},
                repeats=repeats,
                before=open_readers_cold if temperature == "cold" else lambda: None,
            )
            result[f"{order}_{temperature}"] = summary(seconds[order], ours="lmdb", other="folder", size=size)
        both = {
            name: [a + b for a, b in zip(seconds["sequential"][name], seconds["random"][name], strict=True)]
            for name in readers
        }
        result[f"sequential_and_random_{temperature}"] = summary(both, ours="lmdb", other="folder", size=2 * size)
    result["bound"] = {
        "warm": "one copy out of the page cache into a bytes object, the same for both; opening files besides",
        "cold": "the disk: its latency at random, its throughput in order",
    }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test with 40 small images, once")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    images, repeats, mean = (40, 1, 4000) if options.quick else (options.images, options.repeats, 110_000)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_lmdb") as folder:
        result = run(Path(folder), images=images, repeats=repeats, mean_bytes=mean)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
