"""Quick probes of features in small blocks, under torchrun with two processes: figures, a stop, a fault."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from slimclr.engine.distributed import Process, barrier, process_group
from slimclr.engine.preemption import Preempted, StopRequest, stop_requests
from slimclr.errors import UserError
from slimclr.probe.features import Features
from slimclr.probe.quick import Labelled, QuickProbes, Stop


def figures(folder: Path, process: Process, request: StopRequest, *, block: int) -> dict:
    """All figures of one width of drawn features, and how a stop of one process and a fault of another end them."""
    sets = []
    generator = torch.Generator().manual_seed(0)
    for name, images in (("train", 90), ("val", 37)):
        labels = torch.arange(images) % 5
        rows = torch.randn(images, 6, generator=generator) + torch.eye(6)[labels]
        features = Features(folder / name, images, {1.0: 6}, {}, block=block)
        if process.main:
            for number, part in enumerate(features.parts):
                features.write(number, {1.0: rows[part.start : part.stop]})
        sets.append(Labelled(features, labels))
    barrier(process)
    stop = Stop(request, process, "quick", folder)
    probes = QuickProbes(*sets, 5, process, stop)
    found = probes.knn(1.0, (3, 20, 200), (0.07, 0.1)) | probes.ridge(1.0, (1e-3, 0.1), held_out=0.2, seed=0)
    if process.world_size > 1:
        try:
            stop.check(UserError("mine") if process.rank else None)
        except UserError as error:
            found["fault"] = str(error)
        if process.rank:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            probes.ridge(1.0, (0.1,), held_out=0.2, seed=0)
        except Preempted as error:
            found["stop"] = str(error)
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with process_group(0) as one, stop_requests() as asked:
        (place / f"rank_{one.rank}.json").write_text(json.dumps(figures(place / "features", one, asked, block=8)))
