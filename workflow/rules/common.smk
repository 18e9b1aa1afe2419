"""Validation, names and paths that the rules share."""

import json
import os
import re
import sys
from pathlib import Path

import yaml
from slimclr.config import dump, load_config, load_recipes, seeded_runs
from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.machine import gpu_count
from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)


try:
    CONFIG = load_config(
        config,
        name=" + ".join(map(str, workflow.configfiles)) or "config",
    )
    RECIPES = load_recipes(CONFIG, ROOT)
except UserError as error:
    raise WorkflowError(str(error))

WORK = Path(CONFIG.paths.work)
RAW = Path(CONFIG.paths.raw)

# Folder name of a run and seed -> run, and -> seed.
RUN_OF = {
    folder: run
    for run, recipe in RECIPES.items()
    for folder in seeded_runs(run, recipe)
}
SEED_OF = {
    folder: seed
    for run, recipe in RECIPES.items()
    for folder, seed in seeded_runs(run, recipe).items()
}
TRANSFER_RUNS = [folder for folder, run in RUN_OF.items() if RECIPES[run].transfer]

# With `--sdm apptainer` a rule's commands are on PATH in its image, otherwise in its virtual environment. This is a
# prefix of the shell and not a parameter: where a command lies must not rerun what it computed.
IN_CONTAINERS = "apptainer" in {
    method.name.lower() for method in workflow.deployment_settings.deployment_method
}


def in_environment(name):
    """A shell function that runs its arguments in an environment; braces are doubled for Snakemake."""
    folder = "" if IN_CONTAINERS else f"{ROOT}/.venvs/{name}/bin/"
    return f'{name}_env() {{{{ {folder}"$@"; }}}}; '


shell.prefix(
    "".join(in_environment(name) for name in ("train", "detection", "recordio"))
)
IMAGES = yaml.safe_load((ROOT / "containers/images.yaml").read_text())


pathvars:
    data=str(WORK / "data"),
    results=str(WORK / "results"),
    checkpoints=str(WORK / "checkpoints"),
    logs=str(WORK / "logs"),
    benchmarks=str(WORK / "benchmarks"),


wildcard_constraints:
    run="|".join(map(re.escape, RUN_OF)),
    split="train|val",
    environment="[a-z]+",


def environment(name):
    """The marker of an installed environment; its age does not rerun what was computed with it.

    An outdated environment is refused here instead of being rebuilt by its rule: Snakemake does not look for changed
    parameters behind an ancient input that is still to be made.
    """
    if IN_CONTAINERS:
        return []
    marker = ROOT / ".venvs" / name / "installed.sha256"
    wanted = sha256(ROOT / "envs" / f"{name}.lock")
    if marker.exists() and marker.read_text().strip() != wanted:
        raise WorkflowError(
            f"envs/{name}.lock changed since .venvs/{name} was installed; run 'make .venvs/{name}'"
        )
    return ancient(str(marker))


def image(name):
    """The container image of a rule."""
    entry = IMAGES[name]
    if entry["reference"] and entry["digest"]:
        return f"docker://{entry['reference']}@{entry['digest']}"
    path = ROOT / entry["sif"]
    if IN_CONTAINERS and not path.exists():
        raise WorkflowError(
            f"containers/images.yaml: {name}: {path} does not exist; put the image there, name another one, "
            "or run without --sdm apptainer"
        )
    return str(path)


def recipe(wildcards):
    """The recipe of the run that a job's wildcards name."""
    return RECIPES[RUN_OF[wildcards.run]]


def section(model):
    """A section of the config as JSON for a job's command line; spelled-out defaults do not change it."""
    return json.dumps(dump(model), sort_keys=True)


def raw_files(*names, product=None):
    """Inputs below `paths.raw`: only where they exist, so that a dry run works without data.

    Once `product` is there they are named again: Snakemake takes a missing input of a finished product as unchanged,
    and archives may be removed after extraction.
    """
    paths = [str(RAW / name) for name in names]
    if CONFIG.miniature or (product and product.exists()):
        return paths
    return [path for path in paths if os.path.exists(path)]


def half_the_cores():
    """Threads of a heavy job: on one machine two of them fit beside each other, so that no core waits for a chain."""
    # None on a cluster, where the profile's cpus_per_task decides; `workflow.cores` would refuse to answer there.
    return max(1, (workflow.resource_settings.cores or 1) // 2)


def gpus(wildcards):
    """GPUs of a job unless the profile's set-resources says otherwise: one where there is one."""
    return min(1, gpu_count())


def extracted(split):
    """Outputs of an extraction."""
    folder = f"<data>/imagenet/{split}"
    straight = (
        {} if CONFIG.imagenet.keep_folder else {"lmdb": f"<data>/imagenet/{split}.lmdb"}
    )
    return {
        "manifest": f"{folder}/manifest.parquet",
        "report": f"{folder}/data_report.json",
        **straight,
    }
