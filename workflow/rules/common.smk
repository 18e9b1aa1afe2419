"""Validation, names and paths that the rules share."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import yaml
from slimclr.config import (
    decisive,
    dump,
    load_config,
    load_recipes,
    operational,
    seeded_runs,
)
from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.machine import gpu_count, gpu_names
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

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
DATA_SET = "cifar10" if CONFIG.cifar10 else "imagenet"

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


def option(name, value):
    """An option in the shell that is no parameter; without a value none. Braces are doubled for Snakemake."""
    text = f" {name} {shlex.quote(value)}" if value else ""
    return text.replace("{", "{{").replace("}", "}}")


# A prefix replaces Snakemake's own, without which a command that fails before `| tee` would count as a success.
shell.prefix(
    "set -euo pipefail; "
    + "".join(in_environment(name) for name in ("train", "detection", "recordio"))
)
# Slurm signals every process of a job. Snakemake, the shell and tee wait for the training, which writes a checkpoint and
# ends; Snakemake waits after SIGTERM by itself.
STOP_AT_A_STEP = "trap '' TERM USR1; "
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
ON_NODE = " --gpus {resources.gpu} --gres={resources.gres:q} --nodes {resources.nodes}"
# In the shell and not a parameter: where images are read from must not rerun what was computed of them.
SCRATCH = option("--scratch", CONFIG.paths.scratch)
IMAGES = yaml.safe_load((ROOT / "containers/images.yaml").read_text())


pathvars:
    data=str(WORK / "data" / DATA_SET),
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
        # Asked for by jobs alone: an image that no job needs may be missing.
        return lambda wildcards: image_is_there(name)
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
    return str(ROOT / entry["sif"])


def image_is_there(name):
    """No input files, unless a local image is missing."""
    path = image(name)
    if path.startswith("docker://") or os.path.exists(path):
        return []
    raise WorkflowError(
        f"containers/images.yaml: {name}: {path} does not exist; put the image there, name another one, "
        "or run without --sdm apptainer"
    )


def enter_containers():
    """Tell apptainer, by its environment variables, what a container sees beside its image and the working directory.

    The profiles' `apptainer-args` say how it is started; what is here depends on the config and the machine. Jobs that
    Slurm runs inherit it and find their own out again.
    """
    program = "APPTAINER" if shutil.which("apptainer") else "SINGULARITY"
    inputs = CONFIG.imagenet
    raw = [CONFIG.coco, inputs.train, inputs.val, inputs.devkit, CONFIG.cifar10 or ""]
    work = ["", "data", "results", "checkpoints"]
    places = [ROOT, ROOT / CONFIG.references]
    places += [RAW / name for name in raw] + [WORK / name for name in work]
    # Links below them lead out as well: parts of COCO, a data set, one run's results. None lies among the images.
    below = [(RAW / CONFIG.coco).glob("*")]
    below += [
        (WORK / name).glob(pattern) for name in work[1:] for pattern in ("*", "*/*")
    ]
    places += [path for paths in below for path in paths if path.is_symlink()]
    made = [WORK]
    if CONFIG.paths.scratch:
        made.append(Path(os.path.expandvars(CONFIG.paths.scratch)))
        for key in re.findall(r"\$\{?(\w+)", CONFIG.paths.scratch):
            os.environ[f"{program}ENV_{key}"] = os.environ.get(key, "")
    for place in map(Path.absolute, made):
        places.append(next(path for path in (place, *place.parents) if path.exists()))
    # A job's commands name a path as it is written; a link on the way ends at the resolved one.
    paths = {path for place in places for path in (place.absolute(), place.resolve())}
    paths = {path for path in paths if path.exists() and path != Path("/")}
    binds = [str(path) for path in sorted(paths) if not paths & set(path.parents)]
    given = os.environ.get(f"{program}_BIND", "").split(",")
    os.environ[f"{program}_BIND"] = ",".join(dict.fromkeys(filter(None, given + binds)))

    # `--cleanenv` keeps everything out, also what a job needs of its machine.
    for key in list(os.environ):
        if key.startswith(("CUDA_VISIBLE_DEVICES", "NCCL_", "GLOO_", "SLURM_")):
            os.environ[f"{program}ENV_{key}"] = os.environ[key]

    # Home is the working directory there; what libraries would leave in it lies beside Snakemake's own files.
    for key in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        os.environ[f"{program}ENV_{key}"] = os.path.abspath(f".snakemake/{key}")

    # --nv, where a GPU is asked for: a Slurm job knows whether it has one, on one machine it is there or not.
    asked = [os.environ.get(f"SLURM_{name}") for name in ("JOB_GPUS", "GPUS_ON_NODE")]
    if gpu_count() and (any(asked) or "SLURM_JOB_ID" not in os.environ):
        os.environ[f"{program}_NV"] = "1"


if IN_CONTAINERS:
    enter_containers()


def recipe(wildcards):
    """The recipe of the run that a job's wildcards name."""
    return RECIPES[RUN_OF[wildcards.run]]


def section(model):
    """What decides a section's results, as JSON for a job's command line."""
    return json.dumps(decisive(model), sort_keys=True)


def settings(of_run):
    """What else a section says, of every run: it must not rerun what was computed without it, so it is no parameter.

    `of_run` gives a run's section.
    """
    values = {folder: operational(of_run(run)) for folder, run in RUN_OF.items()}
    values = {folder: said for folder, said in values.items() if said}
    return option("--settings", json.dumps(values, sort_keys=True) if values else None)


def raw_files(*names, product=None):
    """Inputs below `paths.raw`: only where they exist, so that a dry run works without data.

    Once `product` is there, those that it was made of are named again: Snakemake takes a missing input of a finished
    product as unchanged, and archives may be removed after extraction. A folder's age tells nothing of the images in it, and changes with
    every file that is laid beside them: it reruns nothing.
    """
    paths = [str(RAW / name) for name in dict.fromkeys(names)]
    paths = [ancient(path) if os.path.isdir(path) else path for path in paths]
    if CONFIG.miniature:
        return paths
    made_of = []
    if product and product.exists():
        recorded = workflow.persistence.input(IOFile(str(product)))
        made_of = paths if recorded is None else recorded
    return [path for path in paths if path in made_of or os.path.exists(path)]


def share_of_cores(gpus=lambda wildcards: 0):
    """Threads of a heavy job on one machine: as large a share as it has of the GPUs.

    Without GPUs half of them: two jobs fit beside each other, so that no core waits for a chain.
    """
    # None on a cluster, where the profile's cpus_per_task decides; `workflow.cores` would refuse to answer there.
    cores = workflow.resource_settings.cores or 1

    def threads(wildcards):
        held, there = gpus(wildcards), len(gpu_names())
        return max(1, cores * held // there if held and there else cores // 2)

    return threads


ON_CLUSTER = workflow.resource_settings.nodes is not None or workflow.remote_exec


def at_hand(wanted):
    """GPUs that a job asks for: on a cluster what is wanted, on one machine what it has of them."""
    return wanted if ON_CLUSTER else min(wanted, len(gpu_names()))


def gres_prefix():
    """`gpu:`, or `gpu:<model>:`, where the user's file says that sbatch takes GPUs as --gres; else None."""
    defaults = workflow.resource_settings.default_resources or {}
    given = defaults["gpus_by"].raw if "gpus_by" in defaults else None
    if given is None or not ON_CLUSTER:
        return None
    match = re.fullmatch(r"gres(:\w+)?", str(given))
    if not match:
        raise WorkflowError(
            f"default-resources: gpus_by={given}: write gres, or gres:MODEL"
        )
    return f"gpu{match[1] or ''}:"


GRES = gres_prefix()


def as_gpu(gpus):
    """The resource `gpu` of a job that needs so many."""
    return gpus if GRES is None else 0


def as_gres(gpus):
    """The resource `gres` of a job that needs so many GPUs."""
    if GRES is None:
        return ""
    return lambda wildcards: f"{GRES}{gpus(wildcards)}" if gpus(wildcards) else ""


def pretrain_gpus(wildcards):
    """As many as share a step's batch in one forward pass each, as published; a random backbone needs none."""
    settings = recipe(wildcards).pretrain
    if settings.method.name == "random":
        return 0
    batch = settings.batch
    return at_hand(
        batch
        // min(settings.bn_batch or batch, settings.max_batch_per_gpu or batch, batch)
    )


def probe_gpus(wildcards):
    """256 images each; one where nothing is trained."""
    settings = recipe(wildcards).probe
    return at_hand(max(1, settings.batch // 256 if settings.epochs else 1))


def transfer_gpus(wildcards):
    """Eight images each."""
    return at_hand(max(1, CONFIG.detection.batch // 8))


def for_each(gpus, amount):
    """A resource that grows with a job's GPUs: `amount` for each, a quarter of it without any."""
    return lambda wildcards: gpus(wildcards) * amount or amount // 4


def extracted(split):
    """Outputs of an extraction."""
    folder = f"<data>/{split}"
    straight = {} if CONFIG.imagenet.keep_folder else {"lmdb": f"<data>/{split}.lmdb"}
    return {
        "manifest": f"{folder}/manifest.parquet",
        "report": f"{folder}/data_report.json",
        **straight,
    }
