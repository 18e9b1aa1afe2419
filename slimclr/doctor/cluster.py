"""Slurm, apptainer and the images that rules run in. Commands are looked up on PATH."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from slimclr.doctor.finding import Finding, ask, failure, ok, warning
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
    """What a rule's jobs ask Slurm for; `partitions` are those that the user's profile names for them."""

    rule: str
    minutes: int
    gpus: bool
    partitions: tuple[str, ...] = ()


def slurm_minutes(text: str) -> int | None:
    """Minutes of a Slurm time limit (`days-hours:minutes:seconds` and shorter forms); None: there is no limit."""
    days, _, clock = text.rpartition("-")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return None
    numbers = [int(part) for part in clock.split(":")]
    # Without days, two parts are minutes and seconds.
    hours, minutes, *_ = [*numbers, 0, 0] if days or len(numbers) == 3 else [0, *numbers]
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
    """The jobs with the time limits and partitions that the user's profile, which need not exist, sets.

    Raises:
        UserError: It is not a YAML file of keys.
    """
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8") if path.is_file() else "") or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(profile, dict):
        raise UserError(f"{path}: must hold keys with values")
    default, rules = profile.get("default-resources") or {}, profile.get("set-resources") or {}
    changed = []
    for job in jobs:
        own = rules.get(job.rule) or {}
        # default-resources' runtime has no effect, as every rule sets its own.
        runtime = re.fullmatch(r"(\d+)([mhd]?)", str(own.get("runtime", job.minutes)))
        partition = own.get("slurm_partition", default.get("slurm_partition"))
        if runtime:  # else an expression, whose value only Snakemake knows
            minutes = int(runtime[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[runtime[2]]
            names = () if partition is None else tuple(str(partition).split(","))
            changed.append(replace(job, minutes=minutes, partitions=names))
    return changed


def check_slurm(jobs: Sequence[Job]) -> list[Finding]:
    """Partitions, GPUs, time limits, pre-emption and the way to a job's state, for what jobs ask for."""
    if shutil.which("sinfo") is None:
        return [ok("slurm", "none here: snakemake --profile local")]
    answer = ask(["sinfo", "-h", "-o", "%R|%a|%l|%G"])
    if not answer.good:
        cure = "look at it with 'scontrol ping'; is this a login node, and does slurmctld run?"
        return [failure("slurm", f"sinfo: {answer.last_line}", cure)]
    rows = [line.strip().split("|") for line in answer.output.splitlines() if line.count("|") == 3]
    partitions = [Partition(row[0], slurm_minutes(row[2]), "gpu" in row[3]) for row in rows if row[1] == "up"]
    if not partitions:
        return [failure("slurm", "no partition is up", "ask the cluster's operators, or wait"), _job_state()]
    used = {partition.name for job in jobs for partition in _open_to(job, partitions)}
    up = ok("slurm", f"partitions: {_names(partitions)}")
    return [up, _gres(partitions), _time_limits(partitions, jobs), _preemption(sorted(used)), _job_state()]


def _names(partitions: Sequence[Partition]) -> str:
    return ", ".join(sorted({partition.name for partition in partitions}))


def _open_to(job: Job, partitions: list[Partition]) -> list[Partition]:
    """Where a job may run: in the partitions named for it, else, if it wants GPUs, in those with GPUs, if there are."""
    if job.partitions:
        return [partition for partition in partitions if partition.name in job.partitions]
    return [partition for partition in partitions if partition.gpus or not job.gpus] or partitions


def _gres(partitions: list[Partition]) -> Finding:
    names = _names([partition for partition in partitions if partition.gpus])
    if names:
        return ok("slurm gres", f"gpu in {names}")
    cure = "jobs that ask for --gres=gpu:N would stay pending; --gpus may work, see docs/slurm.md"
    return warning("slurm gres", "no partition that is up has a gres named gpu", cure)


def _time_limits(partitions: list[Partition], jobs: Sequence[Job]) -> Finding:
    beyond: dict[str, str] = {}
    for job in jobs:
        places = _open_to(job, partitions)
        if not places:
            text = f"{job.rule}: no partition {','.join(job.partitions)} is up"
            return warning("slurm time limits", text, f"correct slurm_partition in {USER_PROFILE}")
        limits = [partition.minutes for partition in places if partition.minutes is not None]
        if len(limits) == len(places) and max(limits) < job.minutes:
            text = f"{job.rule} asks for {job.minutes} minutes, {_names(places)} gives {max(limits)}"
            beyond[f"{job.rule}: {{runtime: {max(limits)}}}"] = text
    if not beyond:
        return ok("slurm time limits", "every rule's time is given")
    cure = f"set-resources in {USER_PROFILE}: {'; '.join(beyond)}; training goes on from its checkpoint"
    return warning("slurm time limits", "; ".join(beyond.values()), cure)


def _preemption(partitions: Sequence[str]) -> Finding:
    """Whether Slurm cancels what it pre-empts: the executor plugin then waits for ever for the job to come back."""
    answer = ask(["scontrol", "show", "config"])
    settings = dict(re.findall(r"^(Preempt\w+) *= *(\S+)", answer.output, re.MULTILINE))
    if not answer.good or "PreemptMode" not in settings:
        cure = "not looked at: see pre-emption in docs/slurm.md"
        return warning("slurm preemption", f"scontrol: {answer.last_line}", cure)
    kind, mode = settings.get("PreemptType", "(null)"), settings["PreemptMode"]
    if kind in ("preempt/none", "(null)"):
        return ok("slurm preemption", "none")
    modes = {"the cluster": mode}
    if kind == "preempt/partition_prio":  # alone lets partitions differ; what a QOS says is not looked at
        shown = ask(["scontrol", "--oneliner", "show", "partition"]).output
        own = dict(re.findall(r"PartitionName=(\S+).* PreemptMode=(\S+)", shown))
        modes = {f"partition {name}": own.get(name, mode) for name in partitions} or modes
    cancelling = [name for name, mode in modes.items() if "CANCEL" in mode.split(",")]
    if not cancelling:
        return ok("slurm preemption", ", ".join(f"{name}: {mode}" for name, mode in modes.items()))
    text = f"{', '.join(cancelling)}: PreemptMode=CANCEL; Snakemake waits for ever for a job that is pre-empted"
    cure = f"name a partition or QOS that queues such jobs again (REQUEUE) in {USER_PROFILE}; "
    cure += "else see 'A Job preemption' in docs/troubleshooting.md"
    return warning("slurm preemption", text, cure)


def _job_state() -> Finding:
    sacct, squeue = ask(["sacct", "-n", "-X", "-o", "JobID"]), ask(["squeue", "-h", "-o", "%i"])
    if sacct.good:
        return ok("slurm status", "sacct answers" + ("" if squeue.good else ", squeue does not"))
    if squeue.good:
        cure = "keep slurm-status-command: squeue in the profile"
        return warning("slurm status", f"only squeue answers; sacct: {sacct.last_line}", cure)
    cure = "without one of them Snakemake cannot see that a job ended"
    return failure("slurm status", f"sacct: {sacct.last_line}; squeue: {squeue.last_line}", cure)


def check_apptainer(*, namespaces: int | None, root: bool) -> Finding:
    """Apptainer; `namespaces` is the kernel's limit of user namespaces, if known, and `root` the super-user."""
    binary = shutil.which("apptainer") or shutil.which("singularity")
    if binary is None:
        cure = "only --sdm apptainer needs it; load its module or ask for it, else rules run in .venvs"
        return warning("apptainer", "not on PATH", cure)
    answer = ask([binary, "--version"])
    words = answer.output.split()
    if not answer.good or not words:
        return failure("apptainer", f"{binary}: {answer.last_line}", "mend its installation")
    if words[0] == "apptainer" and words[-1].startswith("0."):
        return failure("apptainer", f"version {words[-1]}", "Snakemake wants 1.0 or newer")
    if namespaces == 0 and not root:
        cure = "raise sysctl user.max_user_namespaces, or install apptainer-suid"
        return warning("apptainer", f"{words[0]} {words[-1]}; no user namespaces here", cure)
    return ok("apptainer", f"{words[0]} {words[-1]}")


def check_image(name: str, entry: Mapping[str, Any], root: Path) -> Finding:
    """An image of containers/images.yaml, with `sif`, `reference` and `digest`: there, and the one that is meant."""
    check, digest, path, where = f"image {name}", entry.get("digest"), root / entry["sif"], entry.get("reference")
    if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        cure = "'make images-lock' writes it: sha256: and 64 hexadecimal digits"
        return failure(check, f"digest {digest!r} in containers/images.yaml is none", cure)
    if where and digest:
        return ok(check, f"{where}@{digest[:19]}..., compared when it is fetched")
    if where:
        cure = "run 'make images-lock' where the registry is reachable"
        return warning(check, f"{where} without a digest: the local file is used", cure)
    if not path.is_file():
        return warning(check, f"{path} does not exist", "only --sdm apptainer needs it: 'make sif' builds it")
    if digest is None:
        cure = "nothing tells whether it is the image you mean: put the file's SHA-256 into containers/images.yaml"
        return warning(check, f"{path}, digest null", cure)
    found = f"sha256:{sha256(path)}"
    if found == digest:
        return ok(check, f"{path}, {digest[:19]}...")
    text = f"{path} is {found[:19]}..., containers/images.yaml says {digest[:19]}..."
    return failure(check, text, "build it again with 'make sif', or correct the digest")
