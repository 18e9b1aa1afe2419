"""The hardware of this machine, without importing torch, and locks on its GPUs."""

import fcntl
import os
import platform
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path

from slimclr.errors import UserError

# The same for every user of the machine, and visible in containers.
LOCKS = Path("/tmp")
PATIENCE_SECONDS = 60.0


def processor() -> str:
    """The processor's name: on another one, sums are rounded otherwise."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, f"{platform.machine()} processor")


def describe_machine() -> str:
    """Cores and GPUs of this machine, in words."""
    cores, devices = f"{len(os.sched_getaffinity(0))} cores of {processor()}", len(gpu_names())
    if not devices:
        return f"{cores}, no GPU"
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    texts = (re.search(r"Model:\s*(.+)", card.read_text(encoding="utf-8")) for card in cards)
    return f"{cores}, {devices} x {next((text[1] for text in texts if text), 'GPU')}"


def gpu_count() -> int:
    """NVIDIA GPUs that the driver shows."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpu_names(count: int | None = None) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Args:
        count: GPUs of the machine; None counts them.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(gpu_count() if count is None else count)]
    names = [name.strip() for name in given.split(",")]
    # CUDA, too, looks no further than the first entry that names no device.
    end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:end]


def gres_gpus(gres: str) -> int:
    """GPUs of each node in Slurm's --gres, for instance gpu:4 or gpu:a100:4.

    Raises:
        UserError: It names no GPUs.
    """
    match = re.fullmatch(r"gpu(?::[\w.]*[A-Za-z_][\w.]*)?(?::(\d+))?", gres)
    if match is None:
        raise UserError(f"gres: {gres!r} names no GPUs; write gpu:4 or gpu:a100:4")
    return int(match[1] or 1)


def take_gpus(
    count: int, names: Sequence[str], *, folder: Path = LOCKS, patience: float = PATIENCE_SECONDS
) -> tuple[list[str], list[int]]:
    """Take GPUs that no other run on this machine holds, by a lock file each.

    Args:
        count: GPUs wanted.
        names: Those to choose from, as CUDA_VISIBLE_DEVICES names them; it has to be the same naming in all runs.
        folder: Of the lock files.
        patience: Seconds to wait until enough are free.

    Returns:
        The names of those taken, and the open files that hold the locks: until they are closed, which the end of the
        process does, also a crash.

    Raises:
        UserError: Too few became free.
    """
    # Slurm numbers the GPUs of each of its jobs anew, and gives none to two jobs.
    job = os.environ.get("SLURM_JOB_ID", "")
    prefix = f"slimclr-gpu-job{job}-" if job else "slimclr-gpu-"
    until = time.monotonic() + patience
    while True:
        taken: dict[str, int] = {}
        for name in names:
            descriptor = _lock(folder / f"{prefix}{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.lock")
            if descriptor is not None:
                taken[name] = descriptor
            if len(taken) == count:
                return list(taken), list(taken.values())
        for descriptor in taken.values():
            os.close(descriptor)
        if time.monotonic() > until:
            raise UserError(
                f"{count} GPUs needed, but {len(taken)} of {len(names)} are free ({folder}/{prefix}*.lock); wait for "
                "the other runs on this machine, or allow fewer at a time (snakemake --resources gpu=N)"
            )
        # Two that each hold what the other lacks do not try again at the same time.
        time.sleep(random.uniform(0.2, 1.0))


def _lock(path: Path) -> int | None:
    """An open file that holds the lock, or None when another process holds it."""
    try:
        # Another user's file can be locked, but in a shared folder not be opened with O_CREAT.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
