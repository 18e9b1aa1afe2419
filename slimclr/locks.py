"""An environment's lock (`envs/*.lock`) beside what is installed."""

import re
from collections.abc import Mapping
from importlib import metadata


def locked_versions(lock: str) -> dict[str, tuple[set[str], bool]]:
    """Package -> its versions in a lock (several when they depend on the platform), and whether it may be absent."""
    versions: dict[str, tuple[set[str], bool]] = {}
    for match in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;)?", lock, re.MULTILINE):
        known, optional = versions.get(_plain(match[1]), (set(), True))
        versions[_plain(match[1])] = (known | {match[2]}, optional and match[3] is not None)
    return versions


def installed_versions() -> dict[str, str]:
    """Package -> version of this process's environment."""
    return {_plain(package.metadata["Name"]): package.version for package in metadata.distributions()}


def differences(lock: str, installed: Mapping[str, str]) -> list[str]:
    """Where what is installed differs from a lock: every package of it in its version, and nothing else.

    Args:
        lock: Its content.
        installed: Package -> version.
    """
    locked = locked_versions(lock)
    wrong = [
        f"{name} {installed.get(name, 'is missing')} instead of {' or '.join(sorted(versions))}"
        for name, (versions, optional) in locked.items()
        if (name not in installed and not optional) or (name in installed and installed[name] not in versions)
    ]
    more = (name for name in installed if name not in {*locked, "slimclr"})
    return [*wrong, *(f"{name} {installed[name]} is not in it" for name in more)]


def _plain(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
