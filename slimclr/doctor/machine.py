"""The machine: GPUs, memory, disks, limits, clock. Every check takes what it looks at as arguments."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimclr.doctor.finding import Finding, ask, failure, ok, warning

# What torch 2.13's CUDA 13 build supports.
MINIMUM_CAPABILITY = (7, 5)
# The demo and CIFAR-10 need less; a container engine's own default is 64 MB.
SHARED_MEMORY_NEEDED = 256 * 1024**2
# Loader processes hand batches over in shared memory. Of the paper's recipes MoCo v2 takes most of it for each GPU: 8
# processes that are two batches ahead, and the batch in hand; each is 256 images in 2 views of 3 x 224 x 224 float32.
SHARED_MEMORY_PER_GPU = (8 * 2 + 1) * 256 * 2 * 3 * 224**2 * 4
# Below the first number is a failure, below the second a warning.
OPEN_FILES, PROCESSES, CLOCK_SECONDS = (256, 4096), (128, 2048), (60.0, 2.0)
NETWORK = (
    "nfs nfs4 cifs smb3 smbfs 9p afs ncpfs virtiofs lustre gpfs beegfs ceph glusterfs orangefs pvfs2 panfs wekafs "
    "vastfs fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.gcsfuse fuse.juicefs fuse.rclone"
)
# torch itself says what is wrong with a driver.
TORCH = """
import json, torch
import torch.distributed as dist
from torch.utils import collect_env
reason = None
try:
    torch.cuda.init()
except Exception as error:
    reason = " ".join(str(error).split())
cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count() if reason is None else 0)]
nccl = dist.is_available() and dist.is_nccl_available()
print(json.dumps({
    "version": torch.__version__, "reason": reason,
    "driver": collect_env.get_nvidia_driver_version(collect_env.run),
    "gpus": [[card.name, card.total_memory, [card.major, card.minor]] for card in cards],
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
}))
"""


def check_gpu(torch: dict[str, Any] | str, devices: int) -> Finding:
    """The GPUs that torch reaches, out of what `TORCH` printed, or why it failed; the kernel shows so many."""
    if isinstance(torch, str):
        return failure("gpu", f"torch cannot be imported: {torch}", "install envs/train.lock: make .venvs/train")
    cards = torch["gpus"]
    if not cards and not devices:
        text = f"no NVIDIA GPU here; torch {torch['version']}"
        return warning("gpu", text, "train on a machine with one; the demo runs on the CPU")
    if not cards:
        cure = "look at CUDA_VISIBLE_DEVICES and nvidia-smi; in a container --nv is missing"
        return failure("gpu", f"{devices} GPUs, but torch reaches none: {torch['reason'] or 'none is visible'}", cure)
    for name, _, capability in cards:
        if tuple(capability) < MINIMUM_CAPABILITY:
            cure = "torch's CUDA 13 build needs Turing or newer; use another GPU"
            return failure("gpu", f"{name}: compute capability {_dotted(capability)}, below 7.5", cure)
    name, memory, capability = cards[0]
    about = f"{len(cards)} x {name}, {_size(memory)}, compute capability {_dotted(capability)}"
    return ok("gpu", f"{about}, driver {torch['driver'] or 'unknown'}, torch {torch['version']}")


def check_nccl(torch: dict[str, Any] | str) -> Finding:
    """NCCL, which several GPUs talk through."""
    if isinstance(torch, str):
        return failure("nccl", "not looked at: torch cannot be imported", "install envs/train.lock")
    if torch["nccl"]:
        return ok("nccl", f"NCCL {torch['nccl']}")
    several = len(torch["gpus"]) > 1
    cure = "needed for several GPUs; install torch as locked: make .venvs/train"
    return (failure if several else warning)("nccl", "torch without NCCL", cure)


def check_shared_memory(path: Path, devices: int, *, needed: int = SHARED_MEMORY_NEEDED) -> Finding:
    """Free shared memory against `needed` bytes (or it is a failure) and what each GPU's loader processes want."""
    wanted = max(needed, devices * SHARED_MEMORY_PER_GPU)
    if not path.is_dir():
        return failure("shared memory", f"{path} does not exist", "mount a tmpfs there")
    stat = os.statvfs(path)
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    text = f"{path}: {_size(free)} of {_size(size)} free"
    if free >= wanted:
        return ok("shared memory", text)
    cure = f"loader processes want {_size(wanted)}: enlarge it (docker: --shm-size), or set fewer workers"
    return (failure if free < needed else warning)("shared memory", text, cure)


def writable(path: Path) -> bool:
    """Whether a folder may be written, or made where there is none yet."""
    return os.access(_existing(path), os.W_OK | os.X_OK)


def check_space(check: str, path: Path, *, setting: str, needed: int, inodes: int) -> list[Finding]:
    """Free space and inodes where so many bytes and files are still to be written; `setting` names the folder."""
    folder = _existing(path)
    if not writable(path):
        text = f"{path}: not writable" if path.is_dir() else f"{path}: no such folder, and {folder} is not writable"
        return [failure(check, text, f"name a folder that you may write: {setting}")]
    stat = os.statvfs(folder)
    free, files = stat.f_bavail * stat.f_frsize, stat.f_favail
    text, counted = f"{path}: {_size(free)} free", f"{path}: {files:,} free"
    findings = [ok(check, text)]
    if free < needed:
        cure = f"about {_size(needed)} are still to be written: free space, or name another place: {setting}"
        findings = [(failure if free < min(needed, 1024**3) else warning)(check, text, cure)]
    if stat.f_files == 0:  # Btrfs and several network file systems do not count them
        return [*findings, ok(f"{check} inodes", f"{path}: without a fixed number")]
    if files >= inodes:
        return [*findings, ok(f"{check} inodes", counted)]
    other = "set imagenet.keep_folder: false, or " if setting == "paths.work" else ""
    cure = f"{inodes:,} files are still to be written: {other}name another place: {setting}"
    return [*findings, (failure if files < min(inodes, 1000) else warning)(f"{check} inodes", counted, cure)]


def check_lmdb(path: Path, *, copied: bool) -> Finding:
    """Whether the LMDBs are read on this machine or across the network; `copied`: jobs read copies of them."""
    words = ask(["df", "--output=fstype,target", str(_existing(path))]).output.split()
    if len(words) < 4:
        return warning("lmdb", f"{path}: file system not known", "make sure that it is a local disk")
    kind, point = words[-2:]
    text = f"{path}: {kind} (mounted at {point})"
    if kind not in NETWORK.split():
        return ok("lmdb", f"{text}, local")
    if copied:
        return ok("lmdb", f"{text}, across the network; jobs read a copy in paths.scratch")
    cure = "random reads wait for the network: set paths.scratch, then jobs copy the LMDBs to the node's own disk"
    return warning("lmdb", f"{text}, across the network", cure)


def check_limit(check: str, value: int, limits: tuple[int, int], option: str) -> Finding:
    """A soft limit of this process, negative for none; `option` is that of `ulimit`."""
    needed, wanted = limits
    if value < 0 or value >= wanted:
        return ok(check, "no limit" if value < 0 else f"{value:,}")
    return (failure if value < needed else warning)(check, f"{value:,}", f"raise it: ulimit {option} {wanted}")


def check_clock(path: Path, *, now: Callable[[], float] = time.time) -> Finding:
    """This machine's clock against that of the disk: Snakemake decides by times of files what to run again."""
    folder = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".slimclr-doctor-") as file:
            before = now()
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            written, after = os.stat(file.name).st_mtime, now()
    except OSError as error:
        return warning("clock", f"{folder}: {error.strerror}", "not compared; name a folder of yours")
    off = written - after if written > after else min(0.0, written - before)
    needed, wanted = CLOCK_SECONDS
    if abs(off) <= wanted:
        return ok("clock", f"{folder}: {abs(off):.1f} s off this machine's")
    text = f"{folder}: {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} this machine's"
    cure = "set both clocks by NTP, or finished jobs may run again"
    return (failure if abs(off) > needed else warning)("clock", text, cure)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _dotted(numbers: list[int]) -> str:
    return ".".join(map(str, numbers))


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
