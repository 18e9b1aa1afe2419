"""`slimclr doctor`: what on this machine would stop a run or spoil it, before it starts."""

import json
import os
import resource
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import yaml

from slimclr.config import load_config
from slimclr.doctor import cluster, machine, packages
from slimclr.doctor.finding import Finding, failure, probe, warning
from slimclr.errors import UserError
from slimclr.machine import gpu_count

__all__ = ["Finding", "examine_image", "examine_machine", "show"]

# ImageNet takes about the same as files and as LMDB; results and checkpoints of all runs come on top.
IMAGENET_BYTES, IMAGENET_FILES, RESULTS_BYTES = 150 * 10**9, 1_340_000, 50 * 10**9
MINIATURE_BYTES, MINIATURE_FILES = 10**9, 5_000


def examine_machine(*, config: Path, scratch: Path | None, root: Path) -> list[Finding]:
    """Look at everything that a run needs; `scratch` is node-local, None for what the config names, if anything."""
    devices = gpu_count()
    training = _python(root, "train") or sys.executable
    torch = probe(training, machine.TORCH)
    files, processes = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    return [
        machine.check_gpu(torch, devices),
        machine.check_nccl(torch),
        machine.check_shared_memory(Path("/dev/shm"), devices),
        *_disks(config, scratch),
        machine.check_limit("open files", files, machine.OPEN_FILES, "-n"),
        machine.check_limit("processes", processes, machine.PROCESSES, "-u"),
        *_slurm(root),
        *_containers(root),
        packages.check_mmcv(_python(root, "detection")),
        packages.check_works("dali", training),
    ]


def examine_image(name: str) -> list[Finding]:
    """The self-test of the image train, detection or recordio, or of its environment, that this process runs in.

    Raises:
        UserError: There is no such image.
    """
    if name not in packages.MODULES:
        known = ", ".join(packages.MODULES)
        raise UserError(f"--image {name}: not one of {known}; inside an image SLIMCLR_IMAGE names it")
    lock = (Path(__file__).parents[2] / f"envs/{name}.lock").read_text()
    findings = [packages.check_versions(lock), packages.check_imports(sys.executable, packages.MODULES[name].split())]
    if name != "recordio":
        findings.append(packages.check_works("torch", sys.executable))
        own = packages.check_mmcv if name == "detection" else partial(packages.check_works, "dali")
        findings.append(own(sys.executable))
    return findings


def show(findings: list[Finding], *, as_json: bool) -> int:
    """Print the findings, one line each or as JSON; gives the exit code, 1 when there is a failure."""
    count = {level: sum(finding.level == level for finding in findings) for level in ("ok", "warning", "failure")}
    if as_json:
        document = {"schema": 1, "findings": [asdict(finding) for finding in findings], "count": count}
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return 1 if count["failure"] else 0
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    width = max((len(finding.check) for finding in findings), default=0)
    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    for finding in findings:
        level = (f"{finding.level:<7}  ", colours[finding.level])
        line = Text.assemble(level, f"{finding.check:<{width}}  ", finding.text)
        console.print(line.append(f" -> {finding.cure}" if finding.cure else "", style="cyan"), soft_wrap=True)
    console.print(f"{count['failure']} failures, {count['warning']} warnings, {count['ok']} ok")
    return 1 if count["failure"] else 0


def _disks(config: Path, scratch: Path | None) -> list[Finding]:
    try:
        settings = load_config(config)
    except UserError as error:
        findings = [failure("config", str(error).splitlines()[0], "see config/README.md")]
        return findings if scratch is None else [*findings, *_scratch(scratch, "--scratch", IMAGENET_BYTES)]
    work = Path(settings.paths.work).absolute()
    data = work / "data" / ("cifar10" if settings.cifar10 else "imagenet")
    small = bool(settings.cifar10) or settings.miniature is not None or settings.imagenet.expect == "subset"
    images, files = (MINIATURE_BYTES, MINIATURE_FILES) if small else (IMAGENET_BYTES, IMAGENET_FILES)
    needed, inodes = MINIATURE_BYTES if small else RESULTS_BYTES, 1000
    if not (data / "train.lmdb").exists():
        needed += images
    if settings.imagenet.keep_folder and not settings.cifar10 and not (data / "train/manifest.parquet").exists():
        needed, inodes = needed + images, inodes + files
    findings = machine.check_space("data", work, setting="paths.work", needed=needed, inodes=inodes)
    named = settings.paths.scratch
    if scratch is not None:
        findings += _scratch(scratch, "--scratch", images)
    elif named is not None:
        place = Path(os.path.expanduser(os.path.expandvars(named)))
        if "$" not in str(place) and (place.is_dir() or machine.writable(place)):
            findings += _scratch(place, "paths.scratch", images)
        else:  # a login node need not have it
            cure = "run this on a node; jobs make the folder where its parent may be written"
            findings.append(warning("scratch", f"paths.scratch: {place} is not on this machine", cure))
    return [*findings, machine.check_lmdb(data.resolve(), copied=named is not None), machine.check_clock(work)]


def _scratch(place: Path, setting: str, images: int) -> list[Finding]:
    """Space for the copies; where the folder is missing that of the one in which jobs make it."""
    return machine.check_space("scratch", place, setting=setting, needed=images, inodes=1000)


def _slurm(root: Path) -> list[Finding]:
    jobs = cluster.read_rules(root / "workflow/rules")
    try:
        return cluster.check_slurm(cluster.with_profile(jobs, root / cluster.USER_PROFILE))
    except UserError as error:
        cure = "write it as workflow/profiles/user.example.yaml is written"
        return [failure("profile", str(error), cure), *cluster.check_slurm(jobs)]


def _containers(root: Path) -> list[Finding]:
    limit = Path("/proc/sys/user/max_user_namespaces")
    namespaces = int(limit.read_text()) if limit.exists() else None
    images = yaml.safe_load((root / "containers/images.yaml").read_text(encoding="utf-8"))
    return [
        cluster.check_apptainer(namespaces=namespaces, root=os.geteuid() == 0),
        *(cluster.check_image(name, entry, root) for name, entry in images.items() if entry.get("sif")),
    ]


def _python(root: Path, name: str) -> str | None:
    """The interpreter of an installed environment."""
    folder = root / ".venvs" / name
    return str(folder / "bin/python") if (folder / "installed.sha256").is_file() else None
