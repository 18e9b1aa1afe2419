"""The jobs of a config, as Snakemake itself plans them, and what a profile's machine can run at the same time."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from slimclr.errors import UserError
from slimclr.machine import gpu_names, gres_gpus

_BLOCK = re.compile(r"^(local)?rule \S+:$")


@dataclass(frozen=True)
class Job:
    """One job of the DAG.

    Attributes:
        rule: Its rule.
        name: The rule, with the run or the split where it has one.
        wildcards: By name.
        outputs: Files that it writes.
        needs: Names of the jobs that come before.
        threads: Cores that it holds.
        resources: As the profile and the rule give them: gpu, nodes, mem_mb, runtime (minutes) and others.
    """

    rule: str
    name: str
    wildcards: dict[str, str]
    outputs: tuple[str, ...]
    needs: tuple[str, ...]
    threads: int
    resources: dict[str, str]

    def number(self, resource: str) -> int | None:
        """A resource that is a whole number; None where the job has none."""
        text = self.resources.get(resource, "")
        return int(text) if text.isdigit() else None

    @property
    def gpus(self) -> int:
        """GPUs over all nodes, asked for as `gpu` or as `gres`; 0 is the CPU."""
        gres = self.resources.get("gres")
        return (self.number("gpu") or (gres_gpus(gres) if gres else 0)) * self.nodes

    @property
    def nodes(self) -> int:
        """Nodes that it runs on."""
        return self.number("nodes") or 1

    @property
    def cpus(self) -> int:
        """Cores of each node that are its own."""
        return self.number("cpus_per_task") or self.threads

    @property
    def processes(self) -> int:
        """Processes that train together."""
        return max(self.gpus, self.nodes)

    @property
    def done(self) -> bool:
        """Whether everything that it writes is there."""
        return all(os.path.exists(path) for path in self.outputs)


@dataclass(frozen=True)
class Machine:
    """What runs at the same time.

    Attributes:
        name: The profile.
        shared: The jobs share one machine's cores; otherwise each has its own.
        cores: Cores of that machine.
        gpus: GPUs that jobs may hold together; None: no limit.
        jobs: Jobs at the same time; None: no limit.
        retries: How often a job that met its time limit is submitted again.
    """

    name: str
    shared: bool
    cores: int
    gpus: int | None
    jobs: int | None
    retries: int


def read_profile(profile: str, root: Path) -> tuple[Path, Machine]:
    """A Snakemake profile's folder, and its machine.

    Args:
        profile: A name under workflow/profiles, or a folder.
        root: The repository.

    Raises:
        UserError: There is no such profile.
    """
    folders = [Path(profile), root / "workflow/profiles" / profile]
    found = [folder for folder in folders if (folder / "config.yaml").is_file()]
    if not found:
        known = ", ".join(sorted(path.parent.name for path in root.glob("workflow/profiles/*/config.yaml")))
        raise UserError(f"--profile {profile}: no folder with a config.yaml, and not one of {known}; correct the name")
    settings = yaml.safe_load((found[0] / "config.yaml").read_text(encoding="utf-8")) or {}
    executor = settings.get("executor", "local")
    here = len(os.sched_getaffinity(0))
    cores = settings.get("cores", "all")
    gpus = _resource(settings.get("resources"), "gpu")
    jobs = settings.get("jobs")
    machine = Machine(
        name=profile,
        shared=executor == "local",
        cores=cores if isinstance(cores, int) else here,
        gpus=gpus,
        jobs=jobs if isinstance(jobs, int) else None,
        retries=int(settings.get("retries", 0)),
    )
    return found[0].resolve(), machine


def _resource(resources: Any, name: str) -> int | None:
    """A resource of a profile, which may be a mapping or a list of `name=value`."""
    if isinstance(resources, list):
        pairs = (str(entry).split("=", 1) for entry in resources)
        resources = {key: int(text) if text.isdigit() else text for key, text in pairs}
    value = (resources or {}).get(name)
    # A profile may compute it: then it is what this machine has.
    return value if value is None or isinstance(value, int) else len(gpu_names())


def planned_jobs(
    targets: Sequence[str], *, config: Path, profile: Path, machine: Machine, root: Path, gpus: int | None
) -> tuple[list[Job], float]:
    """All jobs of the targets, also those whose results are there, without installed environments.

    Args:
        targets: Rules or files.
        config: The pipeline's config.
        profile: Folder of the profile.
        machine: What the profile says.
        root: The repository.
        gpus: GPUs of each node of a training, instead of the profile's.

    Returns:
        The jobs in Snakemake's order, and the seconds that Snakemake took to plan them.

    Raises:
        UserError: Snakemake is missing, or refuses the config; its own line says why.
    """
    beside = Path(sys.executable).parent / "snakemake"
    snakemake = str(beside) if beside.exists() else shutil.which("snakemake")
    if snakemake is None:
        raise UserError("Snakemake, which knows the jobs, is not installed here; run .venvs/train/bin/slimclr plan")
    command = [snakemake, *targets, "--snakefile", str(root / "Snakefile"), "--profile", str(profile)]
    command += ["--configfile", str(config), "--dry-run", "--forceall", "--nocolor"]
    if gpus is not None:
        command += ["--set-resources", *(f"{rule}:gpu={gpus}" for rule in ("pretrain", "probe", "transfer"))]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith(("WorkflowError", "Error"))), None)
        at = lines.index(told) if told else -1
        text = " ".join(lines[at : at + 2]) if told else (lines or ["no output"])[-1]
        raise UserError(f"{config}: Snakemake cannot plan it: {text}")
    jobs = parse_dry_run(done.stdout)
    if machine.shared:
        jobs = [replace(job, resources=_without_cluster(job.resources)) for job in jobs]
    return jobs, seconds


def _without_cluster(resources: dict[str, str]) -> dict[str, str]:
    """What one machine does not look at: a job has as many cores as threads, and nobody ends it."""
    return {key: value for key, value in resources.items() if key not in ("cpus_per_task", "runtime", "mem_mb")}


def parse_dry_run(text: str) -> list[Job]:
    """Jobs out of what `snakemake --dry-run` prints: a block `rule <name>:` with `<key>: <value>` lines for each."""
    blocks: list[tuple[str, dict[str, str]]] = []
    inside = False
    for line in text.splitlines():
        if _BLOCK.match(line):
            blocks.append((line.rstrip(":").split()[1], {}))
            inside = True
        elif inside and line.startswith("    "):
            key, _, value = line.strip().partition(": ")
            blocks[-1][1][key] = value
        else:
            inside = False
    # A target without files of its own is no work.
    work = [(rule, block) for rule, block in blocks if "output" in block]
    names = [" ".join([rule, *_pairs(block.get("wildcards", "")).values()]) for rule, block in work]
    writer = {path: name for name, (_, block) in zip(names, work, strict=True) for path in _paths(block, "output")}
    return [
        Job(
            rule=rule,
            name=name,
            wildcards=_pairs(block.get("wildcards", "")),
            outputs=_paths(block, "output"),
            needs=tuple(dict.fromkeys(writer[path] for path in _paths(block, "input") if path in writer)),
            threads=int(block.get("threads", "1")),
            resources=_pairs(block.get("resources", "")),
        )
        for name, (rule, block) in zip(names, work, strict=True)
    ]


def _paths(block: dict[str, str], key: str) -> tuple[str, ...]:
    return tuple(filter(None, block.get(key, "").split(", ")))


def _pairs(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(", ") if "=" in part)
