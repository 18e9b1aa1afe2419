"""What a rule's commands run in: a virtual environment from envs/*.lock, made when it is missing, or an image."""

import subprocess
import sys

# Neither an environment nor an image is a job's input or parameter: Snakemake compares both with its record, and where
# the code lies, or whether it runs in containers, must not rerun what was computed.
VENVS = ROOT / ".venvs"
INSTALL = str(ROOT / "envs/install.sh")
# Environments of this plan's jobs. Every job's input function adds its own.
WANTED = set()


def environment(name):
    """No input files, but what a job needs before it runs: its image, or that its environment will be there."""
    if IN_CONTAINERS:
        # Asked for by jobs alone: an image that no job needs may be missing.
        return lambda wildcards: image_is_there(name)
    marker = VENVS / name / "installed.sha256"
    wanted = sha256(ROOT / "envs" / f"{name}.lock")
    if marker.exists() and marker.read_text().strip() != wanted:
        raise WorkflowError(
            f"envs/{name}.lock changed since .venvs/{name} was installed; run 'make .venvs/{name}'"
        )
    return lambda wildcards: WANTED.add(name) or []


def in_environment(name):
    """A shell function that runs its arguments in an environment; it waits for one that is being made, or makes it."""
    if IN_CONTAINERS:
        return in_shell(f'{name}_env() {{ "$@"; }}; ')
    venv = shlex.quote(str(VENVS / name))
    install = shlex.join([INSTALL, name, sys.prefix])
    return in_shell(
        f"{name}_env() {{ [ {venv}/place -ef {venv} ] || {install} || return; "
        f'{venv}/bin/"$@"; }}; '
    )


if ON_CLUSTER:
    checked(
        places.on_cluster,
        Path(sys.executable),
        [ROOT / "Snakefile", *workflow.overwrite_configfiles],
        working=Path.cwd(),
    )


# A prefix replaces Snakemake's own, without which a command that fails before `| keep_log` would count as a success. Killed
# with SIGKILL, neither this shell nor Snakemake ends what it started: `slimclr` looks after them itself.
# A log that the disk has no room for is no reason to fail: what the command says is seen, and its exit code is the job's.
KEEP_LOG = 'keep_log() { tee "$@" || true; }; '
shell.prefix(
    'set -euo pipefail; export SLIMCLR_END_WITH="$$ $PPID"; '
    + in_shell(KEEP_LOG)
    + "".join(in_environment(name) for name in ("train", "detection", "recordio"))
)


def is_installed(name):
    """Whether an environment is there, and was not moved since: its commands hold its place."""
    place = VENVS / name / "place"
    there = (VENVS / name / "installed.sha256").exists()
    return there and (
        not place.is_symlink() or place.resolve() == place.parent.resolve()
    )


def install_environments():
    """Make what is missing: at once what jobs need first, the others beside the training.

    On a cluster all at once: a job that waits for one would hold its GPUs, and nodes often reach no package registry.
    """
    for name in sorted(WANTED, key=lambda name: name == "train"):
        if is_installed(name):
            continue
        log = WORK / f"logs/environments/{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"installing .venvs/{name}; log: {log}", file=sys.stderr)
        with log.open("w") as stream:
            process = subprocess.Popen(
                [INSTALL, name, sys.prefix],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        if (name == "train" or ON_CLUSTER) and process.wait():
            said = log.read_text().strip().splitlines() or ["nothing was said"]
            raise WorkflowError(
                f"envs/install.sh {name} failed: {said[-1]}; the whole log: {log}"
            )


onstart:
    if not IN_CONTAINERS and not workflow.touch:
        install_environments()
