"""Slurm, apptainer and the images that rules run in. Commands are looked up on PATH."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from slimclr.doctor.finding import Finding, ask
from slimclr.errors import UserError
from slimclr.files import sha256

USER_PROFILE = "profiles/default/config.yaml"


@dataclass(frozen=True)
class Partition:
    """A row of sinfo that is up; `minutes` is the time limit, None without one."""

    name: str
    minutes: int | None
    gpus: bool


@dataclass(frozen=True)
class Job:
    """What a rule's jobs ask Slurm for.

    Attributes:
        rule: The rule.
        minutes: Their time limit.
        gpus: Whether they ask for GPUs.
        partitions: Those that the user's profile names for them; empty: it names none.
    """

    rule: str
    minutes: int
    gpus: bool
    partitions: tuple[str, ...] = ()


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


def read_rules(rules: Path) -> list[Job]:
    """The jobs of the rules in a folder (`*.smk`) that name a time; of several times the first, the longest."""
    jobs = []
    for file in sorted(rules.glob("*.smk")):
        _, *parts = re.split(r"^ *rule (\w+):$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for rule, body in zip(parts[::2], parts[1::2], strict=True):
            if match := re.search(r"^ +runtime=[^\d\n]*(\d+)", body, re.MULTILINE):
                jobs.append(Job(rule, int(match[1]), re.search(r"^ +gpu=", body, re.MULTILINE) is not None))
    return jobs


def with_profile(jobs: Sequence[Job], path: Path) -> list[Job]:
    """The jobs with the time limits and partitions that the user's profile sets.

    Args:
        jobs: As the rules ask for them.
        path: The profile's file; need not exist.

    Raises:
        UserError: It is not a YAML file of keys.
    """
    if not path.is_file():
        return list(jobs)
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(profile, dict):
        raise UserError(f"{path}: must hold keys with values")
    default, rules = _mapping(profile.get("default-resources")), _mapping(profile.get("set-resources"))
    changed = []
    for job in jobs:
        own = _mapping(rules.get(job.rule))
        # default-resources' runtime has no effect, as every rule sets its own.
        minutes = _minutes(own.get("runtime", job.minutes))
        partition = own.get("slurm_partition", default.get("slurm_partition"))
        if minutes is not None:  # else an expression, whose value only Snakemake knows
            names = () if partition is None else tuple(str(partition).split(","))
            changed.append(replace(job, minutes=minutes, partitions=names))
    return changed


def check_slurm(jobs: Sequence[Job]) -> list[Finding]:
    """Partitions, GPUs, time limits, pre-emption, the way to a job's state.

    Args:
        jobs: What the rules ask for, with the user's profile.
    """
    if shutil.which("sinfo") is None:
        return [Finding("slurm", "ok", "none here: snakemake --profile local")]
    answer = ask(["sinfo", "-h", "-o", "%R|%a|%l|%G"])
    if not answer.good:
        cure = "look at it with 'scontrol ping'; is this a login node, and does slurmctld run?"
        return [Finding("slurm", "failure", f"sinfo: {answer.last_line}", cure)]
    rows = [line.strip().split("|") for line in answer.output.splitlines() if line.count("|") == 3]
    partitions = [Partition(row[0], slurm_minutes(row[2]), "gpu" in row[3]) for row in rows if row[1] == "up"]
    if not partitions:
        return [Finding("slurm", "failure", "no partition is up", "ask the cluster's operators, or wait"), _job_state()]
    used = sorted({partition.name for job in jobs for partition in _open_to(job, partitions)})
    return [
        Finding("slurm", "ok", f"partitions: {', '.join(sorted({partition.name for partition in partitions}))}"),
        _gres(partitions),
        _time_limits(partitions, jobs),
        _preemption(used),
        _job_state(),
    ]


def _open_to(job: Job, partitions: list[Partition]) -> list[Partition]:
    """Where a job may run: in the partitions named for it, else, if it wants GPUs, in those with GPUs, if there are."""
    if job.partitions:
        return [partition for partition in partitions if partition.name in job.partitions]
    return [partition for partition in partitions if partition.gpus or not job.gpus] or partitions


def _gres(partitions: list[Partition]) -> Finding:
    names = sorted({partition.name for partition in partitions if partition.gpus})
    if not names:
        cure = "jobs that ask for --gres=gpu:N would stay pending; --gpus may work, see docs/slurm.md"
        return Finding("slurm gres", "warning", "no partition that is up has a gres named gpu", cure)
    return Finding("slurm gres", "ok", f"gpu in {', '.join(names)}")


def _time_limits(partitions: list[Partition], jobs: Sequence[Job]) -> Finding:
    beyond: dict[str, str] = {}
    for job in jobs:
        places = _open_to(job, partitions)
        if not places:
            text = f"{job.rule}: no partition {','.join(job.partitions)} is up"
            return Finding("slurm time limits", "warning", text, f"correct slurm_partition in {USER_PROFILE}")
        limits = [partition.minutes for partition in places if partition.minutes is not None]
        if len(limits) == len(places) and max(limits) < job.minutes:
            names = ", ".join(sorted({partition.name for partition in places}))
            beyond[f"{job.rule}: {{runtime: {max(limits)}}}"] = (
                f"{job.rule} asks for {job.minutes} minutes, {names} gives {max(limits)}"
            )
    if beyond:
        cure = f"set-resources in {USER_PROFILE}: {'; '.join(beyond)}; training goes on from its checkpoint"
        return Finding("slurm time limits", "warning", "; ".join(beyond.values()), cure)
    return Finding("slurm time limits", "ok", "every rule's time is given")


def _preemption(partitions: Sequence[str]) -> Finding:
    """Whether Slurm cancels what it pre-empts: the executor plugin then waits for ever for the job to come back."""
    answer = ask(["scontrol", "show", "config"])
    settings = dict(re.findall(r"^(Preempt\w+) *= *(\S+)", answer.output, re.MULTILINE))
    if not answer.good or "PreemptMode" not in settings:
        cure = "not looked at: see pre-emption in docs/slurm.md"
        return Finding("slurm preemption", "warning", f"scontrol: {answer.last_line}", cure)
    kind, mode = settings.get("PreemptType", "(null)"), settings["PreemptMode"]
    if kind in ("preempt/none", "(null)"):
        return Finding("slurm preemption", "ok", "none")
    modes = {"the cluster": mode}
    if kind == "preempt/partition_prio":  # alone lets partitions differ; what a QOS says is not looked at
        shown = ask(["scontrol", "--oneliner", "show", "partition"]).output
        own = dict(re.findall(r"PartitionName=(\S+).* PreemptMode=(\S+)", shown))
        modes = {f"partition {name}": own.get(name, mode) for name in partitions} or modes
    cancelling = [name for name, mode in modes.items() if "CANCEL" in mode.split(",")]
    if cancelling:
        text = f"{', '.join(cancelling)}: PreemptMode=CANCEL; Snakemake waits for ever for a job that is pre-empted"
        cure = f"name a partition or QOS that queues such jobs again (REQUEUE) in {USER_PROFILE}; "
        cure += "else see 'A Job preemption' in docs/troubleshooting.md"
        return Finding("slurm preemption", "warning", text, cure)
    return Finding("slurm preemption", "ok", ", ".join(f"{name}: {mode}" for name, mode in modes.items()))


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


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _minutes(runtime: Any) -> int | None:
    """Minutes of a rule's `runtime`, a number or for instance 12h or 2d."""
    match = re.fullmatch(r"(\d+)([mhd]?)", str(runtime))
    return int(match[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[match[2]] if match else None


def _is_digest(text: str) -> bool:
    kind, _, number = text.partition(":")
    return kind == "sha256" and len(number) == 64 and set(number) <= set("0123456789abcdef")
