"""What produced a result: commit, versions, machine, time."""

import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slimclr.machine import processor

_PACKAGES = ("slimclr", "torch", "torchvision", "numpy", "lmdb", "onedl-mmdetection", "onedl-mmcv", "snakemake")


def provenance(started: float) -> dict[str, Any]:
    """Describe the run that ends now.

    Args:
        started: `time.time()` at its start.

    Returns:
        `git_commit` (with `+` behind it when the tree has changes; None outside a checkout), `versions`, `machine`,
        `device`, `started` (ISO 8601, UTC), `duration_s` and `command`.
    """
    import torch

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "machine": platform.node(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{processor()}, {torch.get_num_threads()} threads",
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "duration_s": round(time.time() - started, 1),
        "command": " ".join(sys.argv),
    }


def git_commit() -> str | None:
    """The checked-out commit of this package's repository, `+` behind it when files differ from it."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=folder, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" if changes else commit
