"""Reads a data set with DALI's reading processes, while they get Slurm's signals. Arguments: images, start method.

Prints the readers' process ids and the sums of the batches, then waits to be killed.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from slimclr.data.loading.loaders import training_loader
from slimclr.data.stores import open_images


def main() -> None:
    images = open_images(Path(sys.argv[1]))
    spawn = sys.argv[2] == "spawn"
    torch.cuda.is_initialized = lambda: spawn  # processes are spawned where there is a GPU
    loader = training_loader(images, "mocov2", image_size=32, total_batch=4, batch=4, seed=0, workers=8, backend="dali")
    parent, readers, sums = os.getpid(), [], []
    for _ in range(2):
        for views, labels in loader:
            sums.append([views[0].double().sum().item(), *labels.tolist()])
            if len(sums) == 2:
                found = [path.parent.name for path in Path("/proc").glob("[0-9]*/status")]
                readers = [
                    int(name) for name in found if _parent(name) == parent and b"resource_tracker" not in _command(name)
                ]
                for reader in readers:
                    for name in ("USR1", "TERM"):  # from another process, as Slurm's are
                        subprocess.run(["kill", f"-{name}", str(reader)], check=True)
                time.sleep(1)
    print(json.dumps({"readers": readers, "sums": sums}), flush=True)
    time.sleep(60)


def _parent(name: str) -> int | None:
    try:
        fields = Path(f"/proc/{name}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in fields if line.startswith("PPid"))


def _command(name: str) -> bytes:
    return Path(f"/proc/{name}/cmdline").read_bytes()


if __name__ == "__main__":
    main()
