"""`slimclr doctor`: what on this machine would stop a run or spoil it, before it starts."""

import os
import resource
import shutil
import sys
from pathlib import Path

from slimclr.config import load_config
from slimclr.doctor import cluster, machine, packages
from slimclr.doctor.finding import Finding, probe
from slimclr.errors import UserError
from slimclr.machine import gpu_count

__all__ = ["Finding", "examine_image", "examine_machine", "show"]

# ImageNet takes about the same as files and as LMDB; results and checkpoints of all runs come on top.
IMAGENET_BYTES, IMAGENET_FILES, RESULTS_BYTES = 150 * 10**9, 1_340_000, 50 * 10**9
MINIATURE_BYTES, MINIATURE_FILES = 10**9, 5_000


def examine_machine(*, config: Path, scratch: Path | None, root: Path) -> list[Finding]:
    """Look at everything that a run of the pipeline needs.

    Args:
        config: The pipeline's config; its relative paths start at the current folder.
        scratch: Node-local scratch; None: what the config names, if anything.
        root: The repository.
    """
    devices = gpu_count()
    training = _python(root, "train") or sys.executable
    torch = probe(training, machine.TORCH)
    return [
        machine.check_gpu(devices),
        machine.check_cuda(torch, machine.driver_cuda(), devices),
        machine.check_nccl(torch),
        machine.check_shared_memory(Path("/dev/shm"), devices),
        *_disks(config, scratch),
        machine.check_limit(
            "open files",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            needed=machine.OPEN_FILES_NEEDED,
            wanted=machine.OPEN_FILES_WANTED,
            option="-n",
        ),
        machine.check_limit(
            "processes",
            resource.getrlimit(resource.RLIMIT_NPROC)[0],
            needed=machine.PROCESSES_NEEDED,
            wanted=machine.PROCESSES_WANTED,
            option="-u",
        ),
        *_slurm(root),
        *_containers(devices, root),
        packages.check_mmcv(_python(root, "detection")),
        packages.check_dali(training),
    ]


def examine_image(name: str, *, root: Path) -> list[Finding]:
    """The self-test of the container image, or the environment, that this process runs in.

    Args:
        name: train, detection or recordio.
        root: The repository, or its copy in the image.

    Raises:
        UserError: There is no such image.
    """
    if name not in packages.MODULES:
        known = ", ".join(packages.MODULES)
        raise UserError(f"--image {name}: not one of {known}; inside an image SLIMCLR_IMAGE names it")
    findings = packages.check_environment(name, python=sys.executable, lock=root / f"envs/{name}.lock")
    # Only an image is to be without compilers: a machine may well have some.
    return [*findings, packages.check_compilers()] if os.environ.get("SLIMCLR_IMAGE") == name else findings


def show(findings: list[Finding], *, as_json: bool) -> int:
    """Print the findings, one line each or as JSON.

    Returns:
        Exit code: 1 when there is a failure, else 0.
    """
    count = {level: sum(finding.level == level for finding in findings) for level in ("ok", "warning", "failure")}
    if as_json:
        import json
        from dataclasses import asdict

        document = {"schema": 1, "findings": [asdict(finding) for finding in findings], "count": count}
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return 1 if count["failure"] else 0
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    width = max((len(finding.check) for finding in findings), default=0)
    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    for finding in findings:
        line = Text.assemble(
            (f"{finding.level:<7}  ", colours[finding.level]), f"{finding.check:<{width}}  ", finding.text
        )
        if finding.cure:
            line.append(f" -> {finding.cure}", style="cyan")
        console.print(line, soft_wrap=True)
    console.print(f"{count['failure']} failures, {count['warning']} warnings, {count['ok']} ok")
    return 1 if count["failure"] else 0


def _disks(config: Path, scratch: Path | None) -> list[Finding]:
    try:
        settings = load_config(config)
    except UserError as error:
        findings = [Finding("config", "failure", str(error).splitlines()[0], "see config/README.md")]
        return findings if scratch is None else [*findings, *_scratch(scratch, "--scratch", IMAGENET_BYTES)]
    work = Path(settings.paths.work).absolute()
    data = work / "data" / ("cifar10" if settings.cifar10 else "imagenet")
    small = bool(settings.cifar10) or settings.miniature is not None or settings.imagenet.expect == "subset"
    images, files = (MINIATURE_BYTES, MINIATURE_FILES) if small else (IMAGENET_BYTES, IMAGENET_FILES)
    needed = MINIATURE_BYTES if small else RESULTS_BYTES
    inodes = 1000
    if not (data / "train.lmdb").exists():
        needed += images
    if settings.imagenet.keep_folder and not settings.cifar10 and not (data / "train/manifest.parquet").exists():
        needed, inodes = needed + images, inodes + files
    mounts = Path("/proc/self/mounts")
    findings = machine.check_space("data", work, setting="paths.work", needed=needed, inodes=inodes)
    if scratch is not None:
        findings += _scratch(scratch, "--scratch", images)
    elif settings.paths.scratch is not None:
        place = Path(os.path.expanduser(os.path.expandvars(settings.paths.scratch)))
        if "$" not in str(place) and (place.is_dir() or machine.writable(place)):
            findings += _scratch(place, "paths.scratch", images)
        else:  # a login node need not have it
            cure = "run this on a node; jobs make the folder where its parent may be written"
            findings.append(Finding("scratch", "warning", f"paths.scratch: {place} is not on this machine", cure))
    text = mounts.read_text(encoding="utf-8", errors="replace") if mounts.exists() else ""
    copied = settings.paths.scratch is not None
    findings.append(machine.check_lmdb_file_system(data.resolve(), text, copied=copied))
    findings.append(machine.check_clock(work))
    return findings


def _scratch(place: Path, setting: str, images: int) -> list[Finding]:
    """Space for the copies; where the folder is missing that of the one in which jobs make it."""
    return machine.check_space("scratch", place, setting=setting, needed=images, inodes=1000)


def _slurm(root: Path) -> list[Finding]:
    jobs = cluster.read_rules(root / "workflow/rules")
    try:
        return cluster.check_slurm(cluster.with_profile(jobs, root / cluster.USER_PROFILE))
    except UserError as error:
        cure = "write it as workflow/profiles/user.example.yaml is written"
        return [Finding("profile", "failure", str(error), cure), *cluster.check_slurm(jobs)]


def _containers(devices: int, root: Path) -> list[Finding]:
    limit = Path("/proc/sys/user/max_user_namespaces")
    namespaces = int(limit.read_text()) if limit.exists() else None
    findings = cluster.check_apptainer(devices=devices, namespaces=namespaces, root=os.geteuid() == 0)
    try:
        images = cluster.read_images(root / "containers/images.yaml")
    except UserError as error:
        return [*findings, Finding("images", "failure", str(error), "restore it from the repository")]
    findings += [cluster.check_image(name, entry, root) for name, entry in images.items()]
    files = [root / entry["sif"] for entry in images.values() if (root / entry["sif"]).is_file()]
    if files and any(shutil.which(name) for name in ("apptainer", "singularity")):
        findings.append(cluster.check_start(min(files, key=lambda path: path.stat().st_size)))
    return findings


def _python(root: Path, name: str) -> str | None:
    """The interpreter of an installed environment."""
    folder = root / ".venvs" / name
    return str(folder / "bin/python") if (folder / "installed.sha256").is_file() else None
