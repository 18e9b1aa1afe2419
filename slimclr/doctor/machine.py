"""The machine: GPUs, memory, disks, limits, clock. Every check takes what it looks at as arguments."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimclr.doctor.finding import Finding, Level, ask

# What torch 2.13's CUDA 13 build supports.
MINIMUM_CAPABILITY = (7, 5)
# The demo and CIFAR-10 need less; a container engine's own default is 64 MB.
SHARED_MEMORY_NEEDED = 256 * 1024**2
# Loader processes hand batches over in shared memory. Of the paper's recipes MoCo v2 takes most of it for each GPU: 8
# processes that are two batches ahead, and the batch in hand; each is 256 images in 2 views of 3 x 224 x 224 float32.
# MoCo v3, SimCLR and probes take half of that.
SHARED_MEMORY_PER_GPU = (8 * 2 + 1) * 256 * 2 * 3 * 224**2 * 4
OPEN_FILES_NEEDED, OPEN_FILES_WANTED = 256, 4096
PROCESSES_NEEDED, PROCESSES_WANTED = 128, 2048
CLOCK_WANTED_SECONDS, CLOCK_NEEDED_SECONDS = 2.0, 60.0
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "virtiofs"),
    *("lustre", "gpfs", "beegfs", "ceph", "glusterfs", "orangefs", "pvfs2", "panfs", "wekafs", "vastfs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.juicefs", "fuse.rclone"),
}

TORCH = """
import json, torch
import torch.distributed as dist
nccl = dist.is_available() and dist.is_nccl_available()
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available(),
    "gpus": torch.cuda.device_count(), "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
}))
"""


def check_gpu(devices: int) -> Finding:
    """Driver and GPUs, as nvidia-smi tells.

    Args:
        devices: GPUs that the kernel shows (/dev/nvidia0 and so on).
    """
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    answer = ask(query)
    if answer.status is None:
        if devices:
            return Finding(
                "gpu", "warning", f"{devices} GPUs, but {answer.last_line}", "install the driver's nvidia-smi"
            )
        return Finding("gpu", "warning", "no NVIDIA GPU here", "train on a machine with one; the demo runs on the CPU")
    if not answer.good:
        return Finding(
            "gpu",
            "failure",
            f"nvidia-smi: {answer.last_line}",
            "mend the driver: load its kernel module, or restart after an update",
        )
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.output.splitlines() if line.count(",") == 3]
    if not rows:
        return Finding("gpu", "failure", f"nvidia-smi shows no GPU: {answer.last_line}", "ask for a GPU in the job")
    old = [row[0] for row in rows if _numbers(row[3]) < MINIMUM_CAPABILITY]
    name, driver, memory, capability = rows[0]
    if old:
        return Finding(
            "gpu",
            "failure",
            f"{old[0]}: compute capability below {'.'.join(map(str, MINIMUM_CAPABILITY))}",
            "torch's CUDA 13 build needs Turing or newer; use another GPU",
        )
    return Finding("gpu", "ok", f"{len(rows)} x {name}, {memory}, compute capability {capability}, driver {driver}")


def driver_cuda() -> str | None:
    """The newest CUDA that the driver supports, out of nvidia-smi's heading."""
    words = ask(["nvidia-smi"]).output.replace("|", " ").split()
    for place in range(len(words) - 2):
        if words[place] == "CUDA" and words[place + 1].endswith("ersion:"):
            return words[place + 2]
    return None


def check_cuda(torch: dict[str, Any] | str, driver: str | None, devices: int) -> Finding:
    """CUDA of torch against the driver.

    Args:
        torch: What `TORCH` printed, or why it failed.
        driver: The newest CUDA that the driver supports.
        devices: GPUs that the kernel shows.
    """
    if isinstance(torch, str):
        return Finding(
            "cuda", "failure", f"torch cannot be imported: {torch}", "install envs/train.lock: make .venvs/train"
        )
    about = f"torch {torch['version']}, CUDA {torch['cuda'] or 'none'}"
    if not torch["cuda"]:
        if devices:
            return Finding("cuda", "failure", f"{about}: CPU only", "install torch's CUDA build: make .venvs/train")
        return Finding("cuda", "ok", f"{about}: CPU only")
    if driver and _numbers(driver)[:1] < _numbers(torch["cuda"])[:1]:
        return Finding(
            "cuda",
            "failure",
            f"{about}, the driver supports CUDA {driver} at most",
            "update the driver (CUDA 13 needs 580 or newer)",
        )
    if torch["available"]:
        return Finding("cuda", "ok", f"{about}, driver up to CUDA {driver or 'unknown'}, {torch['gpus']} GPUs usable")
    if devices or driver:
        return Finding(
            "cuda",
            "failure",
            f"{about}, but torch reaches no GPU",
            "look at CUDA_VISIBLE_DEVICES; in a container --nv is missing",
        )
    return Finding("cuda", "ok", f"{about}; no GPU here")


def check_nccl(torch: dict[str, Any] | str) -> Finding:
    """NCCL, which several GPUs talk through; `torch` as in `check_cuda`."""
    if isinstance(torch, str):
        return Finding("nccl", "failure", "not looked at: torch cannot be imported", "install envs/train.lock")
    if torch["nccl"]:
        return Finding("nccl", "ok", f"NCCL {torch['nccl']}")
    if torch["gpus"] > 1:
        return Finding(
            "nccl",
            "failure",
            f"torch without NCCL on {torch['gpus']} GPUs",
            "install torch as locked: make .venvs/train",
        )
    return Finding("nccl", "warning", "torch without NCCL", "needed for several GPUs; install torch as locked")


def check_shared_memory(path: Path, devices: int, *, needed: int = SHARED_MEMORY_NEEDED) -> Finding:
    """Size of shared memory.

    Args:
        path: Where it is mounted, /dev/shm.
        devices: GPUs of this machine; each wants `SHARED_MEMORY_PER_GPU`, or it is a warning.
        needed: Bytes below which it is a failure.
    """
    wanted = max(needed, devices * SHARED_MEMORY_PER_GPU)
    if not path.is_dir():
        return Finding("shared memory", "failure", f"{path} does not exist", "mount a tmpfs there")
    stat = os.statvfs(path)
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    text = f"{path}: {_size(free)} of {_size(size)} free"
    if free < wanted:
        return Finding(
            "shared memory",
            "failure" if free < needed else "warning",
            text,
            f"loader processes want {_size(wanted)}: enlarge it (docker: --shm-size), or set fewer workers",
        )
    return Finding("shared memory", "ok", text)


def writable(path: Path) -> bool:
    """Whether a folder may be written, or made where there is none yet."""
    return os.access(_existing(path), os.W_OK | os.X_OK)


def check_space(check: str, path: Path, *, setting: str, needed: int, inodes: int) -> list[Finding]:
    """Free space and inodes where something is going to be written.

    Args:
        check: What the finding is called.
        path: The folder; need not exist yet.
        setting: What names the folder: a key of the config, or an option.
        needed: Bytes that are still to be written.
        inodes: Files that are still to be written.
    """
    folder = _existing(path)
    if not writable(path):
        text = f"{path}: not writable" if path.is_dir() else f"{path}: no such folder, and {folder} is not writable"
        return [Finding(check, "failure", text, f"name a folder that you may write: {setting}")]
    stat = os.statvfs(folder)
    free, files = stat.f_bavail * stat.f_frsize, stat.f_favail
    level: Level = "ok"
    cure = ""
    if free < needed:
        cure = f"about {_size(needed)} are still to be written: free space, or name another place: {setting}"
        level = "failure" if free < min(needed, 1024**3) else "warning"
    findings = [Finding(check, level, f"{path}: {_size(free)} free", cure)]
    if stat.f_files == 0:  # Btrfs and several network file systems do not count them
        findings.append(Finding(f"{check} inodes", "ok", f"{path}: without a fixed number"))
    elif files < inodes:
        findings.append(
            Finding(
                f"{check} inodes",
                "failure" if files < min(inodes, 1000) else "warning",
                f"{path}: {files:,} free",
                f"{inodes:,} files are still to be written: "
                + ("set imagenet.keep_folder: false, or " if setting == "paths.work" else "")
                + f"name another place: {setting}",
            )
        )
    else:
        findings.append(Finding(f"{check} inodes", "ok", f"{path}: {files:,} free"))
    return findings


def file_system(path: Path, mounts: str) -> tuple[str, str]:
    """Type and mount point of the file system that a path lies on.

    Args:
        path: Absolute; need not exist yet.
        mounts: Content of /proc/self/mounts.
    """
    found = ("unknown", Path("/"))
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        # The last of several mounts on one point is the one on top.
        if path.is_relative_to(point) and (found[0] == "unknown" or len(point.parts) >= len(found[1].parts)):
            found = (fields[2], point)
    return found[0], str(found[1])


def check_lmdb_file_system(path: Path, mounts: str, *, copied: bool = False) -> Finding:
    """Whether the LMDBs are read on this machine or across the network.

    Args:
        path: As for `file_system`.
        mounts: As for `file_system`.
        copied: Jobs copy them to node-local scratch (`paths.scratch`).
    """
    kind, point = file_system(path, mounts)
    if kind == "unknown":
        return Finding("lmdb", "warning", f"{path}: file system not known", "make sure that it is a local disk")
    if kind in NETWORK:
        text = f"{path}: {kind} (mounted at {point}), across the network"
        if copied:
            return Finding("lmdb", "ok", f"{text}; jobs read a copy in paths.scratch")
        cure = "random reads wait for the network: set paths.scratch, then jobs copy the LMDBs to the node's own disk"
        return Finding("lmdb", "warning", text, cure)
    return Finding("lmdb", "ok", f"{path}: {kind} (mounted at {point}), local")


def check_limit(check: str, value: int, *, needed: int, wanted: int, option: str) -> Finding:
    """A limit of this process.

    Args:
        check: What the finding is called.
        value: The soft limit; negative is none.
        needed: Below it is a failure.
        wanted: Below it is a warning.
        option: Of `ulimit`.
    """
    if value < 0 or value >= wanted:
        return Finding(check, "ok", "no limit" if value < 0 else f"{value:,}")
    return Finding(
        check, "failure" if value < needed else "warning", f"{value:,}", f"raise it: ulimit {option} {wanted}"
    )


def check_clock(
    path: Path,
    *,
    now: Callable[[], float] = time.time,
    wanted: float = CLOCK_WANTED_SECONDS,
    needed: float = CLOCK_NEEDED_SECONDS,
) -> Finding:
    """This machine's clock against that of the disk: Snakemake decides by times of files what to run again.

    Args:
        path: A folder there; need not exist yet.
        now: The machine's clock, in seconds.
        wanted: Seconds of difference that are a warning.
        needed: Seconds of difference that are a failure.
    """
    folder = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".slimclr-doctor-") as file:
            before = now()
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            written = os.stat(file.name).st_mtime
            after = now()
    except OSError as error:
        return Finding("clock", "warning", f"{folder}: {error.strerror}", "not compared; name a folder of yours")
    off = written - after if written > after else min(0.0, written - before)
    if abs(off) <= wanted:
        return Finding("clock", "ok", f"{folder}: {abs(off):.1f} s off this machine's")
    return Finding(
        "clock",
        "failure" if abs(off) > needed else "warning",
        f"{folder}: {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} this machine's",
        "set both clocks by NTP, or finished jobs may run again",
    )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
