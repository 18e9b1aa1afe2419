"""What rules run in with `--sdm apptainer`."""

import shutil

import yaml
from slimclr.machine import gpu_count

IMAGES = yaml.safe_load((ROOT / "containers/images.yaml").read_text())


def image(name):
    """The container image of a rule; none without containers, as Snakemake would look at its path all the same."""
    return lambda wildcards: image_path(name) if IN_CONTAINERS else None


def image_path(name):
    """A container image: a digest at a registry, or a local file."""
    entry = IMAGES[name]
    if entry["reference"] and entry["digest"]:
        return f"docker://{entry['reference']}@{entry['digest']}"
    return checked(places.image_file, ROOT / entry["sif"], working=Path.cwd())


def image_is_there(name):
    """No input files; a local image that is missing is refused."""
    path = image_path(name)
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
    raw += [RELEASED]
    work = ["", "data", "results", "checkpoints"]
    seen = [ROOT, REFERENCES]
    seen += [RAW / name for name in raw] + [WORK / name for name in work]
    # Links below them lead out as well: parts of COCO, a checkpoint, a data set, one run's results. None lies among the images.
    below = [(RAW / name).glob("*") for name in (CONFIG.coco, RELEASED)]
    below += [
        (WORK / name).glob(pattern) for name in work[1:] for pattern in ("*", "*/*")
    ]
    seen += [path for paths in below for path in paths if path.is_symlink()]
    made = [WORK]
    if CONFIG.paths.scratch:
        made.append(Path(os.path.expandvars(CONFIG.paths.scratch)))
        for key in re.findall(r"\$\{?(\w+)", CONFIG.paths.scratch):
            os.environ[f"{program}ENV_{key}"] = os.environ.get(key, "")
    for place in map(Path.absolute, made):
        seen.append(next(path for path in (place, *place.parents) if path.exists()))
    # A job's commands name a path as it is written; a link on the way ends at the resolved one.
    paths = {path for place in seen for path in (place.absolute(), place.resolve())}
    paths = {path for path in paths if path.exists() and path != Path("/")}
    binds = [path for path in sorted(paths) if not paths & set(path.parents)]
    checked(places.in_container, binds, working=Path.cwd())
    given = os.environ.get(f"{program}_BIND", "").split(",")
    os.environ[f"{program}_BIND"] = ",".join(
        dict.fromkeys(filter(None, [*given, *map(str, binds)]))
    )

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
