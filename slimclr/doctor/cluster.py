"""Slurm, apptainer and the images that rules run in. Commands are looked up on PATH."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slimclr.doctor.finding import Finding, ask
from slimclr.errors import UserError
from slimclr.files import sha256


@dataclass(frozen=True)
class Partition:
    """A row of sinfo; `minutes` is the time limit, None without one."""

    name: str
    up: bool
    minutes: int | None
    gpus: bool


def slurm_minutes(text: str) -> int | None:
    """Minutes of a Slurm time limit (`days-hours:minutes:seconds` and shorter forms); None: there is no limit."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or (days and not days.isdigit()):
        return None
    numbers = [int(part) for part in parts]
    if days:
        hours, minutes, *_ = [*numbers, 0, 0]
    elif len(numbers) == 3:
        hours, minutes = numbers[0], numbers[1]
    else:
        hours, minutes = 0, numbers[0]
    return int(days or 0) * 1440 + hours * 60 + minutes


def longest_job(rules: Path) -> int | None:
    """Minutes of the longest job that the rules in a folder (`*.smk`) ask for; None when they name none."""
    lines = [line for file in rules.glob("*.smk") for line in file.read_text(encoding="utf-8").splitlines()]
    numbers = [int(minutes) for line in lines for minutes in re.findall(r"^ +runtime=\D*(\d+)", line)]
    return max(numbers, default=None)


def check_slurm(minutes_wanted: int | None) -> list[Finding]:
    """Partitions, GPUs, the way to a job's state, time limits.

    Args:
        minutes_wanted: Of the longest job in the rules; None: not known.
    """
    if shutil.which("sinfo") is None:
        return [Finding("slurm", "ok", "none here: snakemake --profile local")]
    answer = ask(["sinfo", "-h", "-o", "%R|%a|%l|%G"])
    if not answer.good:
        cure = "look at it with 'scontrol ping'; is this a login node, and does slurmctld run?"
        return [Finding("slurm", "failure", f"sinfo: {answer.last_line}", cure)]
    rows = [line.strip().split("|") for line in answer.output.splitlines() if line.count("|") == 3]
    partitions = [Partition(row[0], row[1] == "up", slurm_minutes(row[2]), "gpu" in row[3]) for row in rows]
    return [
        _partitions(partitions),
        _gres(partitions),
        _time_limits(partitions, minutes_wanted),
        _job_state(),
    ]


def _partitions(partitions: list[Partition]) -> Finding:
    names = sorted({partition.name for partition in partitions if partition.up})
    if not names:
        return Finding("slurm", "failure", "no partition is up", "ask the cluster's operators, or wait")
    return Finding("slurm", "ok", f"partitions: {', '.join(names)}")


def _gres(partitions: list[Partition]) -> Finding:
    names = sorted({partition.name for partition in partitions if partition.up and partition.gpus})
    if not names:
        cure = "jobs that ask for --gres=gpu:N would stay pending; --gpus may work, see docs/slurm.md"
        return Finding("slurm gres", "warning", "no partition that is up has a gres named gpu", cure)
    return Finding("slurm gres", "ok", f"gpu in {', '.join(names)}")


def _time_limits(partitions: list[Partition], wanted: int | None) -> Finding:
    up = [partition for partition in partitions if partition.up]
    limits = [partition.minutes for partition in up]
    if not limits or None in limits:
        return Finding("slurm time limits", "ok", "a partition without a limit")
    longest = max(limit for limit in limits if limit is not None)
    if wanted is not None and longest < wanted:
        return Finding(
            "slurm time limits",
            "warning",
            f"{longest} minutes at most, the rules ask for {wanted}",
            "set runtime to the limit in profiles/default/config.yaml: training goes on from its checkpoint",
        )
    return Finding("slurm time limits", "ok", f"{longest} minutes")


def _job_state() -> Finding:
    sacct, squeue = ask(["sacct", "-n", "-X", "-o", "JobID"]), ask(["squeue", "-h", "-o", "%i"])
    if sacct.good:
        return Finding("slurm status", "ok", "sacct answers" + ("" if squeue.good else ", squeue does not"))
    if squeue.good:
        cure = "keep slurm-status-command: squeue in the profile"
        return Finding("slurm status", "warning", f"only squeue answers; sacct: {sacct.last_line}", cure)
    cure = "without one of them Snakemake cannot see that a job ended"
    return Finding("slurm status", "failure", f"sacct: {sacct.last_line}; squeue: {squeue.last_line}", cure)


def check_apptainer(*, devices: int, namespaces: int | None, root: bool) -> list[Finding]:
    """Apptainer, and whether `--nv` could bind a driver.

    Args:
        devices: GPUs that the kernel shows.
        namespaces: The kernel's limit of user namespaces; None: not known.
        root: This is the super-user.
    """
    binary = shutil.which("apptainer") or shutil.which("singularity")
    if binary is None:
        cure = "only --sdm apptainer needs it; load its module or ask for it, else rules run in .venvs"
        return [Finding("apptainer", "warning", "not on PATH", cure)]
    answer = ask([binary, "--version"])
    words = answer.output.split()
    if not answer.good or not words:
        return [Finding("apptainer", "failure", f"{binary}: {answer.last_line}", "mend its installation")]
    version = words[-1]
    major = version.lstrip("v").split(".")[0]
    if words[0] == "apptainer" and major.isdigit() and int(major) < 1:
        return [Finding("apptainer", "failure", f"version {version}", "Snakemake wants 1.0 or newer")]
    if namespaces == 0 and not root:
        cure = "raise sysctl user.max_user_namespaces, or install apptainer-suid"
        findings = [Finding("apptainer", "warning", f"{words[0]} {version}; no user namespaces here", cure)]
    else:
        findings = [Finding("apptainer", "ok", f"{words[0]} {version}")]
    if not devices:
        return [*findings, Finding("apptainer --nv", "ok", "no GPU here, --nv would bind nothing")]
    libraries = ask(["ldconfig", "-p"])
    if libraries.good and "libcuda.so.1" in libraries.output:
        return [*findings, Finding("apptainer --nv", "ok", "libcuda.so.1 is there to be bound")]
    cure = "apptainer finds the driver through ldconfig: install the driver's libraries, or run ldconfig"
    return [*findings, Finding("apptainer --nv", "warning", "a GPU, but ldconfig knows no libcuda.so.1", cure)]


def read_images(path: Path) -> dict[str, Mapping[str, Any]]:
    """The images that rules run in, out of containers/images.yaml.

    Raises:
        UserError: There is no such file, or it names no image.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: must name images, one line each")
    return {name: entry for name, entry in entries.items() if entry.get("sif")}


def check_image(name: str, entry: Mapping[str, Any], root: Path) -> Finding:
    """An image of containers/images.yaml: there, and the one that is meant.

    Args:
        name: Its name.
        entry: `sif`, `reference`, `digest`.
        root: The repository, from which a relative `sif` starts.
    """
    check, digest = f"image {name}", entry.get("digest")
    if digest and not _is_digest(digest):
        cure = "'make images-lock' writes it: sha256: and 64 hexadecimal digits"
        return Finding(check, "failure", f"digest {digest!r} in containers/images.yaml is none", cure)
    if entry.get("reference"):
        if digest:
            return Finding(check, "ok", f"{entry['reference']}@{digest[:19]}..., compared when it is fetched")
        text = f"{entry['reference']} without a digest: the local file is used"
        cure = "run 'make images-lock' where the registry is reachable"
        local = _local(check, root / entry["sif"], None)
        return local if local.level == "failure" else Finding(check, "warning", text, cure)
    return _local(check, root / entry["sif"], digest)


def _local(check: str, path: Path, digest: str | None) -> Finding:
    if not path.is_file():
        return Finding(
            check, "warning", f"{path} does not exist", "only --sdm apptainer needs it: 'make sif' builds it"
        )
    if digest is None:
        cure = "nothing tells whether it is the image you mean: put the file's SHA-256 into containers/images.yaml"
        return Finding(check, "warning", f"{path}, digest null", cure)
    found = f"sha256:{sha256(path)}"
    if found != digest:
        text = f"{path} is {found[:19]}..., containers/images.yaml says {digest[:19]}..."
        return Finding(check, "failure", text, "build it again with 'make sif', or correct the digest")
    return Finding(check, "ok", f"{path}, {digest[:19]}...")


def check_start(path: Path, *, timeout: float = 60) -> Finding:
    """Whether apptainer can start an image.

    Args:
        path: A SIF file.
        timeout: Seconds.
    """
    binary = "apptainer" if shutil.which("apptainer") else "singularity"
    answer = ask([binary, "--silent", "exec", "--cleanenv", str(path), "true"], timeout=timeout)
    if answer.good:
        return Finding("container", "ok", f"{path.name} starts")
    return Finding("container", "failure", f"{path.name} does not start: {answer.last_line}", "see docs/containers.md")


def _is_digest(text: str) -> bool:
    kind, _, number = text.partition(":")
    return kind == "sha256" and len(number) == 64 and set(number) <= set("0123456789abcdef")
