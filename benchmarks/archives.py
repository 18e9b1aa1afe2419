"""What the benchmarks of the data stages share: generated archives of ImageNet's mean image size, clocks, memory."""

import contextlib
import io
import os
import platform
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from slimclr.machine import processor

MEAN_BYTES = 110_000
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def photo(generator: np.random.Generator, size: int) -> bytes:
    """A JPEG's structure around noise: right for everything that does not decode it, and not compressible."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG")
    shell = file.getvalue()
    noise = generator.integers(0, 255, size - len(shell), np.uint8)  # without 255, which begins a marker
    return shell[:-2] + noise.tobytes() + shell[-2:]


def write_archive(path: Path, *, classes: int, per_class: int, mean_bytes: int = MEAN_BYTES) -> None:
    """A tar of one tar per class, as ILSVRC2012_img_train.tar is; sizes vary by half the mean."""
    generator = np.random.default_rng(0)
    with tarfile.open(path, "w") as outer:
        for index in range(classes):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as inner:
                for number in range(per_class):
                    data = photo(generator, int(generator.integers(mean_bytes // 2, mean_bytes * 3 // 2)))
                    info = tarfile.TarInfo(f"n{index:08d}_{number}.JPEG")
                    info.size = len(data)
                    inner.addfile(info, io.BytesIO(data))
            info = tarfile.TarInfo(f"n{index:08d}.tar")
            info.size = file.tell()
            file.seek(0)
            outer.addfile(info, file)


def can_drop_caches() -> bool:
    """Whether this process may empty the page cache."""
    return os.access(_DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Write everything to disk and empty the page cache."""
    os.sync()
    _DROP_CACHES.write_text("3\n")


def evict(path: Path) -> None:
    """Write everything to disk and take a file out of the page cache."""
    os.sync()
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_page_cache(file: Path) -> None:
    """Read a file of holes as large as the free memory; it has to stay until the measurement ends.

    A virtual machine whose balloon reports free pages gives memory back to its host two seconds after it was freed, and
    gets it again page by page, which took 1 to 4 s per GB on a Firecracker machine: more than extraction itself. In a
    full page cache new pages take the place of old ones, as on a machine that is in use.
    """
    if not file.exists():
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        with open(file, "wb") as created:
            created.truncate(1024 * int(fields["MemAvailable"].split()[0]))
    block = memoryview(bytearray(1 << 23))
    with open(file, "rb", buffering=0) as opened:
        while opened.readinto(block):
            pass


def alternate(
    functions: dict[str, Callable[[], None]],
    *,
    repeats: int,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    clean: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time functions by turns, in the given order and the reverse one.

    Args:
        functions: What to time, by name.
        repeats: Times of each.
        before: Runs before each, not timed.
        after: Runs after each, timed.
        clean: Runs after that, not timed.

    Returns:
        Seconds of each repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats):
        for name in list(functions)[:: 1 if repeat % 2 == 0 else -1]:
            before()
            start = time.perf_counter()
            functions[name]()
            after()
            seconds[name].append(time.perf_counter() - start)
            clean()
    return seconds


def summary(seconds: dict[str, list[float]], *, ours: str, other: str, size: int) -> dict[str, Any]:
    """Medians, rates and the ratio of two of `alternate`'s entries."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ratio": round(medians[other] / medians[ours], 2),
        "median_s": {name: round(value, 3) for name, value in medians.items()},
        "mb_per_s": {name: round(size / value / 1e6) for name, value in medians.items()},
        "all_s": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
    }


def machine() -> dict[str, Any]:
    """Where this ran."""
    return {
        "processor": processor(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }


def peak_memory(arguments: list[str]) -> int:
    """Greatest RssAnon of a command and its workers, in bytes."""
    peak = 0
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0
    return peak


def anonymous_memory(root: int) -> int:
    """RssAnon of a process and its descendants, in bytes."""
    parents, memory = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            pid = int(status.parent.name)
            parents[pid] = int(fields["PPid"])
            memory[pid] = int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(memory.get(pid, 0) for pid in family)
