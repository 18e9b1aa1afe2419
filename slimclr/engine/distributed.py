"""Processes and devices: one process per GPU under torchrun, or one process alone."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from slimclr.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """This is the process that writes files."""
        return self.rank == 0


def under_launcher() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def launch(gpus: int, arguments: Sequence[str]) -> None:
    """Replace this process by torchrun with one process per GPU, unless one is enough or torchrun is here already.

    Args:
        gpus: GPUs to use; 0 is the CPU.
        arguments: The command line after `slimclr`.

    Raises:
        UserError: More GPUs than this machine shows.
    """
    here = torch.cuda.device_count()
    if gpus > here and not under_launcher():
        raise UserError(f"{gpus} GPUs requested, but {here} are here; ask for fewer (--gpus, or gpu in the profile)")
    if gpus > 1 and not under_launcher():
        sys.stdout.flush()
        runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m", "slimclr"]
        os.execv(sys.executable, [sys.executable, *runner, *arguments])


@contextmanager
def processes(gpus: int) -> Iterator[Processes]:
    """Join the other processes (NCCL on GPUs, gloo on CPUs) and leave them at the end.

    Args:
        gpus: 0 means the CPU even where a GPU is.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if not under_launcher():
        yield Processes(0, 1, device)
        return
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        leave()


def leave() -> None:
    """Leave the other processes, so that no thread of the process group outlives it.

    A wrapped model that waits for the garbage collector keeps the group alive, and a gloo thread that lets go of a
    tensor while the interpreter ends aborts the process. Callers hold no wrapped model any more.
    """
    gc.collect()
    dist.destroy_process_group()


def barrier(where: Processes) -> None:
    """Wait for the other processes."""
    if where.world > 1:
        dist.barrier()
