"""The jobs of a config, as Snakemake itself plans them, and what a profile's machine can run at the same time."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from slimclr.config import Config, Model, Recipe
from slimclr.errors import UserError
from slimclr.machine import gpu_names, gres_gpus

# Rules that do what another does, and write one file more.
_SAME = {"pretrain_keep_state": "pretrain"}


@dataclass(frozen=True)
class Job:
    """One job of the DAG, as Snakemake plans it."""

    rule: str
    name: str  # the rule, with the run or the split where it has one
    wildcards: dict[str, str]
    outputs: tuple[str, ...]
    needs: tuple[str, ...]  # names of the jobs that come before
    threads: int
    resources: dict[str, str]  # gpu, nodes, mem_mb, runtime (minutes) and others
    benchmark: str = ""  # the file in which Snakemake notes what it took

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
class JobForecast:
    """What one job takes; None is not known."""

    job: Job
    stage: str
    seconds: float | None  # alone on its machine, without what waits for it
    cores: float  # that it keeps busy
    begin: float = 0.0  # seconds after the start of the whole DAG
    end: float = 0.0  # later than `seconds` says where jobs share a machine
    requeues: int = 0  # how often it is submitted again because of its time limit
    disk_gb: float | None = None  # what it leaves, checkpoints included
    memory_gb: float | None = None  # of one node
    gpu_memory_gb: float | None = None  # of one GPU

    @property
    def gpu_hours(self) -> float | None:
        """GPUs times hours."""
        return None if self.seconds is None else self.job.gpus * self.seconds / 3600

    @property
    def cpu_hours(self) -> float | None:
        """Cores that it holds times hours."""
        return None if self.seconds is None else self.job.cpus * self.job.nodes * self.seconds / 3600


@dataclass(frozen=True)
class Machine:
    """What runs at the same time; None is no limit."""

    name: str  # the profile
    shared: bool  # the jobs share one machine's cores; otherwise each has its own
    cores: int  # of that machine
    gpus: int | None
    jobs: int | None
    retries: int  # how often a job that met its time limit is submitted again


# Rules whose jobs belong to a run.
RUN_RULES = ("pretrain", "probe", "quick_probe", "finetune", "transfer")


def section_of(rule: str, config: Config, recipe: Recipe) -> Model:
    """What a rule with runs takes of config and recipe."""
    if rule == "transfer":
        return config.detection
    return getattr(recipe, {"quick_probe": "quick_section", "import_checkpoint": "checkpoint"}.get(rule, rule))


def read_profile(profile: str, root: Path) -> tuple[Path, Machine]:
    """The folder of a Snakemake profile, a name under workflow/profiles or a folder, and its machine."""
    folders = [Path(profile), root / "workflow/profiles" / profile]
    found = [folder for folder in folders if (folder / "config.yaml").is_file()]
    if not found:
        known = ", ".join(sorted(path.parent.name for path in root.glob("workflow/profiles/*/config.yaml")))
        raise UserError(f"--profile {profile}: no folder with a config.yaml, and not one of {known}; correct the name")
    settings = yaml.safe_load((found[0] / "config.yaml").read_text(encoding="utf-8")) or {}
    shared = settings.get("executor", "local") == "local"
    cores, jobs = (value if isinstance(value := settings.get(key), int) else None for key in ("cores", "jobs"))
    cores = cores or len(os.sched_getaffinity(0))
    gpus, retries = len(gpu_names()) if shared else None, int(settings.get("retries", 0))
    return found[0].resolve(), Machine(profile, shared, cores, gpus, jobs, retries)


def planned_jobs(
    targets: Sequence[str], *, config: Path, profile: Path, machine: Machine, root: Path, gpus: int | None
) -> tuple[list[Job], float]:
    """All jobs of the targets, also those whose results are there, and the seconds that Snakemake took to plan them.

    They need no installed environments. What Snakemake refuses is told by its own line.
    """
    beside = Path(sys.executable).parent / "snakemake"
    snakemake = str(beside) if beside.exists() else shutil.which("snakemake")
    if snakemake is None:
        raise UserError("Snakemake, which knows the jobs, is not installed here; run .venvs/train/bin/slimclr plan")
    command = [snakemake, *targets, "--snakefile", str(root / "Snakefile"), "--profile", str(profile)]
    command += ["--configfile", str(config), "--dry-run", "--forceall", "--nocolor"]
    if gpus is not None:
        training = ("pretrain", *_SAME, "probe", "finetune", "transfer")
        command += ["--set-resources", *(f"{rule}:gpu={gpus}" for rule in training)]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["no output"]
        at = next((n for n, line in enumerate(lines) if line.startswith(("WorkflowError", "Error"))), len(lines) - 1)
        raise UserError(f"{config}: Snakemake cannot plan it: {' '.join(lines[at : at + 2])}")
    # One machine does not look at these: a job has as many cores as threads, and nobody ends it.
    return parse_dry_run(done.stdout, ignore=("cpus_per_task", "runtime", "mem_mb") if machine.shared else ()), seconds


def parse_dry_run(text: str, *, ignore: Sequence[str] = ()) -> list[Job]:
    """Jobs out of what `snakemake --dry-run` prints: a block `rule <name>:` with `<key>: <value>` lines for each."""
    blocks: list[tuple[str, dict[str, str]]] = []
    for rule, lines in re.findall(r"^(?:local)?rule (\S+):\n((?:    .*\n)*)", text, re.MULTILINE):
        pairs = (line.strip().partition(": ") for line in lines.splitlines())
        blocks.append((rule, {key: value for key, _, value in pairs}))
    # A target without files of its own is no work.
    work = [(_SAME.get(rule, rule), block) for rule, block in blocks if "output" in block]
    names = [" ".join([rule, *_pairs(_parts(block, "wildcards")).values()]) for rule, block in work]
    writer = {path: name for name, (_, block) in zip(names, work, strict=True) for path in _parts(block, "output")}
    return [
        Job(
            rule=rule,
            name=name,
            wildcards=_pairs(_parts(block, "wildcards")),
            outputs=_parts(block, "output"),
            needs=tuple(dict.fromkeys(writer[path] for path in _parts(block, "input") if path in writer)),
            threads=int(block.get("threads", "1")),
            resources={key: one for key, one in _pairs(_parts(block, "resources")).items() if key not in ignore},
            benchmark=block.get("benchmark", ""),
        )
        for name, (rule, block) in zip(names, work, strict=True)
    ]


def _parts(block: dict[str, str], key: str) -> tuple[str, ...]:
    return tuple(part.removesuffix(" (ancient)") for part in block.get(key, "").split(", ") if part)


def _pairs(parts: Sequence[str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in parts if "=" in part)
