"""Packages that single formats need, imported when they are needed."""

import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from slimclr.errors import UserError


def needed(package: str, *, by: str) -> ModuleType:
    """Import a package that a format or an engine needs.

    Args:
        package: Its name, for importing and installing.
        by: What needs it, for the message.

    Raises:
        UserError: It is not installed; the line has the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = error.name or package
        raise UserError(f"{by}: needs the package {name}; install it: {install_command(name.split('.')[0])}") from None


def install_command(package: str) -> str:
    """What installs a package into this environment; environments that uv made have no pip."""
    if find_spec("pip") is None:
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, package])
    return shlex.join([sys.executable, "-m", "pip", "install", package])
