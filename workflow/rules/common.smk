"""Validation, names and paths that the rules share."""

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from slimclr import places
from slimclr.absent import absent_checkpoints, begin_with_absent, tell
from slimclr.external_weights import external_runs
from slimclr.config import (
    RELEASED,
    decisive,
    dump,
    load_config,
    load_recipes,
    operational,
    read_yaml,
    seeded_runs,
)
from slimclr.errors import UserError
from slimclr.files import read_object, sha256
from slimclr.machine import gpu_names
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

ROOT = Path(workflow.basedir).absolute()


def checked(function, *arguments, **named):
    """What a function of slimclr gives; what it says to the user ends Snakemake."""
    try:
        return function(*arguments, **named)
    except UserError as error:
        raise WorkflowError(str(error))


for file in workflow.configfiles:
    # Snakemake has read it, but takes the last of two equal keys without a word. It reads JSON, too.
    if Path(file).suffix != ".json":
        checked(read_yaml, Path(file))
CONFIG = checked(
    load_config,
    config,
    name=" + ".join(map(str, workflow.configfiles)) or "config",
)
RECIPES = checked(load_recipes, CONFIG, ROOT)
REFERENCES = ROOT / CONFIG.references
if not REFERENCES.is_file():
    raise WorkflowError(f"references: {REFERENCES} does not exist; correct the config")

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
# Runs whose recipe names a checkpoint, those whose weights are no product of a rule, and those whose checkpoint is not
# there: these are left out, so that they do not stop the others, and told when everything else is done.
IMPORTED = {
    folder: RECIPES[run].checkpoint
    for folder, run in RUN_OF.items()
    if RECIPES[run].checkpoint
}
EXTERNAL = checked(external_runs, WORK, RUN_OF, imported=IMPORTED)
ABSENT = absent_checkpoints(
    WORK, RAW, {run: one for run, one in IMPORTED.items() if run not in EXTERNAL}
)
ABSENT_LINES = dict.fromkeys(
    tell(RAW, IMPORTED[run], fault) for run, fault in ABSENT.items()
)
LEFT_OUT = begin_with_absent(
    {
        folder: RECIPES[run].pretrain.init
        for folder, run in RUN_OF.items()
        if folder not in {*EXTERNAL, *IMPORTED} and RECIPES[run].pretrain.init
    },
    ABSENT,
)
LEFT_OUT = {
    run: f"begins with {other}, which is left out" for run, other in LEFT_OUT.items()
}
ABSENT_LINES |= dict.fromkeys(f"{run}: {why}" for run, why in LEFT_OUT.items())
RUNS = [folder for folder in RUN_OF if folder not in ABSENT | LEFT_OUT]
QUICK_RUNS = [folder for folder in RUNS if RECIPES[RUN_OF[folder]].quick]
KEEP_STATE = [
    folder
    for folder, run in RUN_OF.items()
    if folder not in {*EXTERNAL, *IMPORTED} and RECIPES[run].pretrain.keep_state
]
FINETUNE_RUNS = [folder for folder in RUNS if RECIPES[RUN_OF[folder]].finetune]
TRANSFER_RUNS = [folder for folder in RUNS if RECIPES[RUN_OF[folder]].transfer]

if workflow.is_main_process:
    for line in ABSENT_LINES:
        print(f"left out: {line}", file=sys.stderr)

# With `--sdm apptainer` a rule's commands are on PATH in its image, otherwise in its virtual environment.
IN_CONTAINERS = "apptainer" in {
    method.name.lower() for method in workflow.deployment_settings.deployment_method
}
ON_CLUSTER = workflow.resource_settings.nodes is not None or workflow.remote_exec


def in_report(path, caption="metrics", category="Results"):
    """An output that `snakemake --report` shows."""
    folder = os.path.join(workflow.basedir, "workflow/report")
    return report(path, caption=f"{folder}/{caption}.rst", category=category)


def in_shell(text):
    """A piece of a rule's shell as Snakemake wants it, which takes single braces for its own."""
    return text.replace("{", "{{").replace("}", "}}")


def option(name, value):
    """An option in the shell that is no parameter; without a value none."""
    return in_shell(f" {name} {shlex.quote(value)}") if value else ""


# Slurm signals every process of a job. Snakemake, the shell and tee wait for the training, which writes a checkpoint and
# ends; Snakemake waits after SIGTERM by itself.
STOP_AT_A_STEP = "trap '' TERM USR1; "
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
ON_NODE = (
    " --gpus {resources.gpu:q} --gres={resources.gres:q} --nodes {resources.nodes:q}"
)
# In the shell and not a parameter: where images are read from must not rerun what was computed of them.
SCRATCH = option("--scratch", CONFIG.paths.scratch)


def one_of(runs):
    """A wildcard's pattern that runs match; (?!), that of none, is never found."""
    return "|".join(map(re.escape, runs)) or "(?!)"


pathvars:
    data=str(WORK / "data" / DATA_SET),
    results=str(WORK / "results"),
    checkpoints=str(WORK / "checkpoints"),
    logs=str(WORK / "logs"),
    benchmarks=str(WORK / "benchmarks"),


wildcard_constraints:
    run=one_of(RUN_OF),
    split="train|val",


def recipe(wildcards):
    """The recipe of the run that a job's wildcards name."""
    return RECIPES[RUN_OF[wildcards.run]]


def widths_of(run):
    """A run's widths; those of a checkpoint are known once it is imported."""
    if RECIPES[RUN_OF[run]].pretrain:
        return RECIPES[RUN_OF[run]].pretrain.backbone.widths
    if run not in EXTERNAL:
        checkpoints.import_checkpoint.get(run=run)
    return list(read_object(WORK / f"results/pretrain/{run}/metrics.json")["widths"])


def section(model):
    """What decides a section's results, as JSON for a job's command line."""
    return json.dumps(decisive(model), sort_keys=True)


def settings(of_run):
    """What else a section says, of every run: it must not rerun what was computed without it, so it is no parameter.

    `of_run` gives a run's section; None where it has none.
    """
    values = {folder: of_run(run) for folder, run in RUN_OF.items()}
    values = {
        folder: operational(said) for folder, said in values.items() if said is not None
    }
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


def quick_gpus(wildcards):
    """One: reading the images takes longer than the network."""
    return at_hand(1)


def finetune_gpus(wildcards):
    """256 images each."""
    return at_hand(max(1, recipe(wildcards).finetune.batch // 256))


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


def resized(split):
    """Options that scale training images down in the LMDB; validation images never are."""
    resize = CONFIG.imagenet.lmdb_resize
    if resize is None or split != "train":
        return []
    return ["--shorter-side", resize.shorter_side, "--quality", resize.quality]


def begins_with(wildcards):
    """What a run begins with, where it is no drawn weights."""
    settings = recipe(wildcards).pretrain
    if settings.init is None:
        return []
    if settings.init_is_file:
        weights = WORK / f"results/pretrain/{wildcards.run}/weights.safetensors"
        return raw_files(settings.init, product=weights)
    kept = "state" if settings.init_take == "state" else "weights"
    return [f"<results>/pretrain/{settings.init}/{kept}.safetensors"]


def pre_trained(keep_state):
    """Runs that are trained here, and keep their state or not, as a regular expression."""
    # Weights that the user brought are sources: Snakemake neither makes nor deletes those.
    trained = [folder for folder in RUN_OF if folder not in {*EXTERNAL, *IMPORTED}]
    return one_of(run for run in trained if (run in KEEP_STATE) == keep_state)


def checkpoint_file(run):
    """Its name below `paths.raw`."""
    return f"{RELEASED}/{RECIPES[RUN_OF[run]].checkpoint.file}"
