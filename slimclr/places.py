"""Checks of path names: characters that Snakemake, apptainer or Slurm cannot handle are refused before any job."""

import re
from collections.abc import Iterable
from pathlib import Path

from slimclr.errors import UserError


def in_pattern(path: str) -> str:
    """Check a path of the config that becomes part of Snakemake's patterns.

    Raises:
        ValueError: It contains a wildcard's or variable's bracket, or a control character.
    """
    if found := re.search(r"[{}<>\x00-\x1f]", path):
        raise ValueError(
            f"{path!r} has {found[0]!r} in it, which Snakemake takes for its own; rename or link that folder"
        )
    return path


def in_container(paths: Iterable[Path], *, working: Path) -> None:
    """Check folders that are bound into a container.

    Args:
        paths: What is bound into the container.
        working: The working directory, which Snakemake writes into a command as Python would, not as a shell.

    Raises:
        UserError: A name contains a separator of apptainer's lists, or a quote that ends the working directory's.
    """
    for path in paths:
        if found := re.search(r"[,:\\\x00-\x1f]", str(path)):
            raise UserError(f"{path}: apptainer binds no folder with {found[0]!r} in its name; rename that folder")
    if found := re.search(r"""['",:\\\x00-\x1f]""", str(working)):
        raise UserError(
            f"{working}: apptainer cannot start in a folder with {found[0]!r} in its name; rename that folder"
        )


def image_file(path: Path, *, working: Path) -> str:
    """The name of an image's file in Snakemake's command, which does not quote it.

    Args:
        path: The file.
        working: The working directory; below it the name can be relative, so that its own folders need no quotes.

    Raises:
        UserError: The name would need quotes.
    """
    needs_quotes = re.compile(r"[^\w@%+=./-]")
    name = str(path)
    if needs_quotes.search(name) and path.is_relative_to(working):
        name = str(path.relative_to(working))
    if found := needs_quotes.search(name):
        raise UserError(
            f"{path}: Snakemake passes on no image with {found[0]!r} in its path; run in the repository's folder, "
            "or name an image at another place in containers/images.yaml"
        )
    return name


def on_cluster(python: Path, files: Iterable[Path], *, working: Path) -> None:
    """Check the paths that Snakemake writes into the command of a job that it submits to Slurm.

    Args:
        python: The interpreter that Snakemake runs in, which gets no quotes.
        files: Snakefile and config files, in quotes within quotes.
        working: The working directory.

    Raises:
        UserError: A shell on the way would split or expand a name.
    """
    if found := re.search(r"[^\w@%+=:,./-]", str(python)):
        raise UserError(
            f"{python}: Snakemake submits no job to Slurm with {found[0]!r} in this path; rename that folder"
        )
    for path in (*files, working):
        if found := re.search(r"""['"$`\\\x00-\x1f]""", str(path)):
            raise UserError(
                f"{path}: Snakemake submits no job to Slurm with {found[0]!r} in this path; rename that folder"
            )
