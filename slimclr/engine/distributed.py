"""The launcher and the process group: one process per GPU under torchrun, on one or several nodes, or a single one."""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import nn

from slimclr.engine.follow import PARENT
from slimclr.engine.preemption import EXIT_FOLDER, SIGNALS
from slimclr.errors import UserError
from slimclr.machine import gpu_names, take_gpus
from slimclr.workers import end_with_parent

# How long an interrupted launcher waits for torchrun to have been interrupted, too.
_INTERRUPTED_SECONDS = 5

_RENDEZVOUS = "SLIMCLR_RENDEZVOUS"
# Below the ports that the kernel itself chooses from.
_FIRST_PORT, _PORTS = 15_000, 15_000
# torchrun leaves SIGTERM and SIGUSR1, which ask to stop, to the processes that train.
MEETING = timedelta(minutes=5)
"""How long the processes of a training wait for one another at the beginning."""
TORCHRUN_OPTIONS = ("--signals-to-handle=SIGINT,SIGHUP,SIGQUIT",)


@dataclass(frozen=True)
class Process:
    """This process within the process group: its rank, the world size and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0


def under_launcher() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def launch(gpus: int, arguments: Sequence[str], *, nodes: int = 1) -> int | None:
    """Run `slimclr` under torchrun, unless one process is enough or torchrun has started this process.

    In the latter case wait for the other processes, and end when torchrun does. What they all have to do before they
    join the process group, such as copying images, may take longer.

    One process per GPU, or one per node without GPUs. Runs on the same machine take different GPUs. With several nodes,
    srun starts torchrun on each node of the surrounding Slurm job; the first node is the rendezvous.

    Args:
        gpus: GPUs of each node; 0 is the CPU.
        arguments: The command line after `slimclr`.
        nodes: Nodes.

    Returns:
        The launcher's exit code; None if this process itself is to do the work.

    Raises:
        UserError: More GPUs than this machine has or other runs leave free, several nodes without such a Slurm job, or
            other processes that do not come.
    """
    if under_launcher():
        if PARENT in os.environ:
            end_with_parent(int(os.environ[PARENT]))
        _meet(MEETING)
        return None
    slimclr = [sys.executable, "-m", "slimclr", *arguments]
    if nodes > 1 and _RENDEZVOUS not in os.environ:
        endpoint = _rendezvous_endpoint(nodes)
        # srun reads its options from these variables too, and they describe the surrounding job step.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SRUN_"))}
        keep = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
        return _run(_srun(nodes, slimclr), environment | keep | {_RENDEZVOUS: endpoint})
    here = torch.cuda.device_count()
    if gpus > here:
        raise UserError(f"{gpus} GPUs requested, but {here} are here; ask for fewer (--gpus, or gpu in the profile)")
    locks: list[int] = []
    if gpus:
        names, locks = take_gpus(gpus, gpu_names(here)[:here])
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    if nodes == 1 and gpus <= 1:
        return None
    sys.stdout.flush()
    rendezvous = ["--standalone"]
    if nodes > 1:
        job = os.environ["SLURM_JOB_ID"]
        rendezvous = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-id={job}"]
        rendezvous += [f"--rdzv-endpoint={os.environ[_RENDEZVOUS]}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={max(1, gpus)}"]
    # torchrun holds the GPUs' locks, too: it outlives this process when only this one is killed.
    return _run([*torchrun, *TORCHRUN_OPTIONS, "-m", *slimclr[2:]], os.environ, locks)


def _srun(nodes: int, command: Sequence[str]) -> list[str]:
    # The surrounding job step holds the resources; the steps inside share them (--overlap).
    return [
        "srun",
        f"--jobid={os.environ['SLURM_JOB_ID']}",
        "--overlap",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        *command,
    ]


def _rendezvous_endpoint(nodes: int) -> str:
    """host:port of the rendezvous for this Slurm job; the port depends on the job, as jobs may share a node."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job.isdigit():
        raise UserError(f"{nodes} nodes need a Slurm job; submit with `snakemake --profile slurm`, or use one node")
    absent = [program for program in ("squeue", "scontrol", "srun") if shutil.which(program) is None]
    if absent:
        raise UserError(
            f"{nodes} nodes need Slurm's tools beside the job, but not on PATH: {', '.join(absent)}; a container has "
            "none, so run without --sdm apptainer, or use one node"
        )
    # Not from the environment: it names the nodes of the job step, which may be fewer.
    names = _output("squeue", "--noheader", "--jobs", job, "--format=%N")
    hosts = _output("scontrol", "show", "hostnames", names).split()
    if len(hosts) < nodes:
        raise UserError(f"{nodes} nodes requested, but Slurm job {job} has {names or 'none'}; set nodes in the profile")
    # The address that Slurm itself uses: a node's name need not be known to the network.
    address = re.search(r"NodeAddr=(\S+)", _output("scontrol", "--oneliner", "show", "node", hosts[0]))
    return f"{address[1] if address else hosts[0]}:{_FIRST_PORT + int(job) % _PORTS}"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _run(command: Sequence[str], environment: dict[str, str] | os._Environ[str], open_files: Sequence[int] = ()) -> int:
    """Run a launcher, and forward the signals that request a stop to the training processes.

    Slurm signals every process of a job step. torchrun would kill its workers, so it ignores these signals.
    """
    with tempfile.TemporaryDirectory(prefix="slimclr") as name:
        folder = Path(name)
        received: list[int] = []
        told: set[Path] = set()

        def receive(number: int, _: FrameType | None) -> None:
            received.append(number)
            told.clear()

        # The training may take longer than `preemption.stoppable` waits.
        wakeup = signal.set_wakeup_fd(-1)
        # Signals that are ignored here stay ignored in the launcher.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
        try:
            environment = {**environment, EXIT_FOLDER: str(folder)}
            follower = [sys.executable, "-m", "slimclr.engine.follow", str(os.getpid()), *command]
            with subprocess.Popen(follower, env=environment, pass_fds=open_files) as child:
                for number in SIGNALS:
                    signal.signal(number, receive)
                try:
                    while child.poll() is None:
                        with suppress(subprocess.TimeoutExpired):
                            child.wait(0.2)
                        if received:
                            _forward_signal(received[-1], folder, told)
                except KeyboardInterrupt:
                    # From a terminal torchrun got it, too, and ends its workers; `kill -INT` of this process did not.
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(_INTERRUPTED_SECONDS)
                    if child.poll() is None:
                        child.send_signal(signal.SIGINT)
                    child.wait()
                    raise
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
        if child.returncode == 0 and (folder / "code").exists():
            return int((folder / "code").read_text())
        return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _meet(patience: timedelta) -> None:
    """Wait until all processes of the training are there."""
    until = time.monotonic() + patience.total_seconds()
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=patience))
        store.set(f"slimclr/{rank}", "here")
        while absent := [other for other in range(world_size) if not store.check([f"slimclr/{other}"])]:
            if time.monotonic() > until:
                raise UserError(
                    f"process {rank} of {world_size} waited {patience.total_seconds():.0f} seconds for the processes "
                    f"{', '.join(map(str, absent))}; see why these did not start, and run this stage again"
                )
            time.sleep(0.1)
    except dist.DistError as error:
        raise UserError(
            f"the processes of this training do not meet ({str(error).splitlines()[0]}); see why the others did not "
            "start, and run this stage again"
        ) from None


def _forward_signal(number: int, folder: Path, told: set[Path]) -> None:
    """Signal the processes that are ready, once. Called repeatedly, for those that are still starting."""
    for path in set(folder.glob("*.pid")) - told:
        told.add(path)
        with suppress(ProcessLookupError):
            os.kill(int(path.stem), number)


@contextmanager
def process_group(gpus: int, errors: Path | None = None) -> Iterator[Process]:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and leave it at the end.

    Args:
        gpus: 0 means the CPU, even on a machine with GPUs.
        errors: Folder for the traceback of the error that ended a process, one file per rank.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if not under_launcher():
        yield Process(0, 1, device)
        return
    # An hour, as another node may still be copying its images (paths.scratch).
    dist.init_process_group("nccl" if gpus else "gloo", timeout=timedelta(hours=1))
    rank = dist.get_rank()
    try:
        yield Process(rank, dist.get_world_size(), device)
    except Exception:
        if errors is not None:
            errors.mkdir(parents=True, exist_ok=True)
            (errors / f"rank_{rank}.log").write_text(traceback.format_exc(), encoding="utf-8")
        raise
    finally:
        leave()


def leave() -> None:
    """Destroy the process group, so that none of its threads outlives it.

    A DistributedDataParallel model that waits for the garbage collector keeps the group alive, and a gloo thread that
    frees a tensor while the interpreter ends aborts the process. So callers must not hold such a model any more.
    """
    gc.collect()
    dist.destroy_process_group()


def barrier(process: Process) -> None:
    """Wait for the other processes."""
    if process.world_size > 1:
        dist.barrier()


def broadcast_buffers(module: nn.Module, process: Process) -> None:
    """Give all processes the first one's running statistics, which weights files and checkpoints hold."""
    if process.world_size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
