"""Short real runs of the pipeline's own commands, on little data, and what they tell."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slimclr.errors import UserError
from slimclr.progress import STEPS


@dataclass(frozen=True)
class Trial:
    """A command that ran; times are seconds since its begin."""

    seconds: float
    steps: list[float]  # begin and ends of the steps of its progress
    cores: float  # that it and its processes kept busy
    memory_gb: float  # the most that they took together


class Trials:
    """Runs commands, which write below `folder`, in the environments of the repository."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root

    def __call__(self, *arguments: object, environment: str = "train", threads: int = 1) -> Trial:
        """Run `slimclr` with these arguments as its job would; a failure is told by its last line."""
        python = Path(sys.executable)
        if environment != "train":
            installed = self.root / ".venvs" / environment
            if not (installed / "installed.sha256").is_file():
                raise UserError(
                    f".venvs/{environment} is not installed; run make .venvs/{environment}, or state a rate"
                )
            python = installed / "bin/python"
        with tempfile.NamedTemporaryFile(dir=self.folder, mode="w+") as said:
            steps = Path(f"{said.name}.steps")
            steps.touch()
            keys = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            surroundings = os.environ | dict.fromkeys(keys, str(threads)) | {STEPS: str(steps)}
            command = [str(part) for part in (python, "-m", "slimclr", *arguments)]
            began = time.time()
            with subprocess.Popen(command, env=surroundings, cwd=self.root, stdout=said, stderr=said) as process:
                busy_s, memory = _watch(process)
            seconds = time.time() - began
            if process.returncode:
                said.seek(0)
                lines = [line.strip() for line in said if line.strip()] or [f"exit code {process.returncode}"]
                told = next((line for line in lines if "out of memory" in line), lines[-1])
                raise UserError(told.removeprefix(f"slimclr {arguments[0]}: error: "))
        times = [json.loads(line)[0] - began for line in steps.read_text().splitlines()]
        return Trial(seconds, times, max(0.1, busy_s / seconds), memory)


def _watch(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Processor seconds, and the most GB of memory, of a process and all below it until it ends."""
    import psutil

    busy: dict[int, float] = {}
    most = 0.0
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            processes = (root, *root.children(recursive=True))
            busy |= {one.pid: sum(one.cpu_times()[:2]) for one in processes}
            most = max(most, sum(one.memory_full_info().pss for one in processes) / 1e9)
        except psutil.Error:  # one of them has just ended
            continue
        time.sleep(0.25)
    return sum(busy.values()), most


@contextmanager
def open_trials(work: Path, root: Path) -> Iterator[Trials]:
    """Trials in a folder on the disk that `work`, which need not exist yet, lies on; it is removed."""
    existing = next(path for path in (work.absolute(), *work.absolute().parents) if path.exists())
    place = existing if os.access(existing, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".slimclr-plan-", dir=place) as folder:
        yield Trials(Path(folder), root)


def photo(path: Path, width: int, height: int) -> Path:
    """Write a photo with noise, PNG or JPEG as its name says; of ImageNet's 500 x 375 pixels it has its 115 kB, too."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    ground = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((width, height))
    pixels = np.asarray(ground) + 25 * rng.standard_normal((height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def spread(photos: Sequence[Path], folder: Path, *, count: int, classes: Sequence[str]) -> Path:
    """A data set of hard links: so many images, in folders of classes."""
    for number in range(count):
        source, name = photos[number % len(photos)], classes[number % len(classes)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.link(source, folder / name / f"{name}_{number}{source.suffix}")
    return folder
