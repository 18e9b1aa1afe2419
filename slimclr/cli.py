"""The command line: one subcommand per rule. Heavy imports happen inside the subcommand that needs them."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from slimclr import __version__
from slimclr.config import (
    Detection,
    Pretrain,
    Probe,
    json_schema,
    load_config,
    load_recipe,
    load_recipes,
    parse_section,
)
from slimclr.engine.preemption import Preempted, exit_code
from slimclr.errors import UserError, refusal
from slimclr.machine import gres_gpus

REPOSITORY = Path(__file__).resolve().parents[1]
SECTION = "JSON, or the path of a YAML file"
IMAGES = "an LMDB, RecordIO files (.rec) or a folder of classes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit code: 0, 2 when the user can mend something, 75 when the run was asked to stop and is to be run again.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    try:
        return options.handler(options, arguments) or 0
    except UserError as error:
        for line in str(error).splitlines():
            print(f"slimclr {options.command}: error: {line}", file=sys.stderr)
        return 2
    except Preempted as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"slimclr {options.command}: {error}", file=sys.stderr)
        return exit_code()
    except BrokenPipeError:  # `slimclr ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        refused = refusal(error, _written(options))
        if refused is None:
            raise
        print(f"slimclr {options.command}: error: {refused}", file=sys.stderr)
        return 2
    return 0


def _written(options: argparse.Namespace) -> list[Path]:
    """Where this subcommand writes."""
    paths = (getattr(options, name, None) for name in ("out", "lmdb", "checkpoints"))
    return [path for path in paths if path is not None]


def _miniature(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.data.miniature import write_miniature

    write_miniature(options.out, seed=options.seed)


def _extract(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.data import extract

    extract(
        options.split,
        archive=options.archive,
        devkit=options.devkit,
        expect=options.expect,
        out=options.out,
        lmdb=options.lmdb,
        check_images=options.check_images,
        on_corrupt=options.on_corrupt,
        official_md5=options.check_md5,
        md5=options.md5,
        jobs=options.jobs,
    )


def _convert(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.data import convert

    convert(folder=options.folder, out=options.out)


def _verify(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.data.verify import verify

    print(verify(options.path, manifest=options.manifest, content=options.content))


def _recordio(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.recordio import recordio

    recordio(data=options.data, out=options.out, resize=options.resize, quality=options.quality, jobs=options.jobs)


def _cifar(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.cifar import cifar

    cifar(source=options.source, out=options.out)


def _gpus(options: argparse.Namespace) -> int:
    """GPUs of each node, however they were asked for."""
    return gres_gpus(options.gres) if options.gres else options.gpus


def _pretrain(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    recipe = parse_section(Pretrain, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    # A random backbone is drawn, not trained: one process on the CPU.
    drawn = recipe.method.name == "random"
    gpus, nodes = (0, 1) if drawn else (_gpus(options), options.nodes)
    code = launch(gpus, arguments, nodes=nodes)
    if code is not None:
        return code
    from slimclr.data.staging import staged
    from slimclr.stages.pretrain import pretrain

    with nullcontext() if options.data is None else staged(options.data, options.scratch) as data:
        pretrain(
            recipe,
            run=options.run,
            seed=options.seed,
            data=data,
            out=options.out,
            checkpoints=options.checkpoints,
            gpus=gpus,
            paper=options.paper,
            resume=options.resume,
        )
    return None


def _probe(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    recipe = parse_section(Probe, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    gpus = _gpus(options)
    code = launch(gpus, arguments, nodes=options.nodes)
    if code is not None:
        return code
    from slimclr.data.staging import staged
    from slimclr.stages.probe import probe

    with staged(options.train, options.scratch) as train, staged(options.val, options.scratch) as val:
        probe(
            recipe,
            run=options.run,
            seed=options.seed,
            weights=options.weights,
            train=train,
            val=val,
            out=options.out,
            checkpoints=options.checkpoints,
            gpus=gpus,
        )
    return None


def _transfer(options: argparse.Namespace, arguments: Sequence[str]) -> int | None:
    recipe = parse_section(Detection, options.recipe, options.settings.get(options.run, {}))
    from slimclr.engine.distributed import launch

    code = launch(_gpus(options), arguments, nodes=options.nodes)
    if code is not None:
        return code
    from slimclr.stages.transfer import transfer

    transfer(
        recipe,
        run=options.run,
        seed=options.seed,
        weights=options.weights,
        coco=options.coco,
        out=options.out,
        checkpoints=options.checkpoints,
    )
    return None


def _import(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.import_checkpoint import import_checkpoint

    import_checkpoint(
        options.file,
        out=options.out,
        run=options.run,
        hash_check=options.hash_check,
        val=options.val,
        photos=options.photos,
    )


def _report(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.config import Config, Recipe
    from slimclr.stages.report import report

    try:
        document = json.loads(options.config)
        config = Config.model_validate(document["config"])
        recipes = {run: Recipe.model_validate(recipe) for run, recipe in document["recipes"].items()}
        name = document["name"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"--config: not JSON with a valid config, recipes and name ({type(error).__name__}: {cause}); let "
            "Snakemake run this stage, which passes it"
        ) from error
    report(
        config,
        recipes,
        config_name=name,
        results=options.results,
        references=options.references,
        out=options.out,
    )


def _recipe(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.recipe import show_recipe

    path = REPOSITORY / load_config(options.config).recipes / f"{options.run}.yaml"
    show_recipe(load_recipe(path), run=options.run, gpus=options.gpus, images=options.images)


def _check(options: argparse.Namespace, _: Sequence[str]) -> None:
    recipes = load_recipes(load_config(options.config), REPOSITORY)
    print(f"{options.config}: {len(recipes)} runs, no mistakes: {', '.join(recipes)}")


def _schema(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.config_docs import markdown

    print(markdown() if options.markdown else json.dumps(json_schema(), indent=2), end="" if options.markdown else "\n")


def _doctor(options: argparse.Namespace, _: Sequence[str]) -> int:
    from slimclr.doctor import examine_image, examine_machine, show

    if options.image is not None:
        findings = examine_image(options.image)
    else:
        findings = examine_machine(config=options.config, scratch=options.scratch, root=REPOSITORY)
    return show(findings, as_json=options.json)


def _plan(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.plan import hours, largest_batch, plan

    if options.largest_batch is not None:
        largest_batch(options.largest_batch, config=options.config, root=REPOSITORY, gpus=options.gpus)
        return
    plan(
        options.targets,
        config=options.config,
        profile=options.profile,
        root=REPOSITORY,
        gpus=options.gpus,
        time_limit_h=None if options.time_limit is None else hours(options.time_limit),
        rates=options.rates,
        measured=options.measure,
        write=options.write_rates,
        as_json=options.json,
    )


def _clean(options: argparse.Namespace, _: Sequence[str]) -> None:
    from slimclr.stages.checkpoints import clean_checkpoints

    clean_checkpoints(checkpoints=options.checkpoints, results=options.results, dry_run=options.dry_run)


def _at_least(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number, not below `least`."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} does not do; give a whole number, {least} or more")
        return int(text)

    return number


_SETTINGS = '{"my_run": {"workers": 4}}'


def _settings(text: str) -> dict[str, dict[str, Any]]:
    """An argument's type: a JSON object of objects."""
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or not all(isinstance(value, dict) for value in settings.values()):
        raise argparse.ArgumentTypeError(f"{text!r} does not do; give JSON, for instance {_SETTINGS}")
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimclr", description="Slimmable self-supervised learning, stage by stage.")
    parser.add_argument("--version", action="version", version=f"slimclr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, handler: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(handler=handler)
        return sub

    def training(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--recipe", required=True, help=f"this stage's settings: {SECTION}")
        sub.add_argument(
            "--settings",
            type=_settings,
            default={},
            metavar="JSON",
            help="run -> settings that take the place of the recipe's; Snakemake passes those that change no result so",
        )
        sub.add_argument("--name", dest="run", required=True, help="the run's name")
        sub.add_argument("--seed", type=int, default=0, help="seed (default 0)")
        sub.add_argument(
            "--gpus", type=_at_least(0), default=0, help="GPUs of each node, one process each; 0 is the CPU (default)"
        )
        sub.add_argument("--gres", default="", help="the same as Slurm's --gres says it, for instance gpu:4")
        sub.add_argument(
            "--nodes", type=_at_least(1), default=1, help="nodes of the Slurm job that this runs in (default 1)"
        )
        sub.add_argument("--checkpoints", type=Path, required=True, help="folder of rolling checkpoints")

    sub = command("miniature", _miniature, "Generate small archives and a small COCO.")
    sub.add_argument("--seed", type=int, default=0, help="seed (default 0)")
    sub.add_argument("--out", type=Path, required=True, help="folder to write into")

    sub = command("extract", _extract, "Unpack an ImageNet archive into folders of classes, with a manifest.")
    sub.add_argument("--split", choices=("train", "val"), required=True)
    sub.add_argument(
        "--archive",
        type=Path,
        required=True,
        help="ILSVRC2012_img_train.tar or _val.tar, only read; for val also a folder of <wnid>/<image>",
    )
    sub.add_argument(
        "--devkit", type=Path, help="for val: ILSVRC2012_devkit_t12.tar.gz, or a text file (.txt) of lines 'name wnid'"
    )
    sub.add_argument("--expect", choices=("ilsvrc2012", "subset"), required=True, help="counts to insist on")
    sub.add_argument("--out", type=Path, required=True, help="folder of the split, for images, manifest and report")
    sub.add_argument("--lmdb", type=Path, metavar="FILE", help="write the images into this LMDB instead of the folder")
    sub.add_argument(
        "--check-images",
        choices=("structure", "decode"),
        default="structure",
        help="look at header and end of every image (default), or decode it",
    )
    sub.add_argument(
        "--on-corrupt", choices=("stop", "skip"), default="stop", help="stop with a list (default), or leave them out"
    )
    sub.add_argument("--check-md5", action="store_true", help="compare with the MD5 that ImageNet published")
    sub.add_argument("--md5", metavar="HEX", help="compare the archive with this MD5")
    sub.add_argument("--jobs", type=int, help="worker processes (default: one per available core, at most 8)")

    sub = command("convert", _convert, "Put an extracted split into one LMDB.")
    sub.add_argument("--folder", type=Path, required=True, help="folder of the split, with manifest.parquet")
    sub.add_argument("--out", type=Path, required=True, help="the database, one file")

    sub = command("verify", _verify, "Check that a data set is whole.")
    sub.add_argument("path", type=Path, metavar="PATH", help=IMAGES)
    sub.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.parquet to compare with")
    sub.add_argument("--content", action="store_true", help="compare the SHA-1 of every image, too")

    sub = command("recordio", _recordio, "Put a data set into RecordIO files; needs mxnet, so run .venvs/recordio's.")
    sub.add_argument("--data", type=Path, required=True, help="images: an LMDB or a folder of classes")
    sub.add_argument("--out", type=Path, required=True, help="<name>.rec; <name>.idx and <name>.lst come beside it")
    sub.add_argument("--resize", type=int, metavar="PIXELS", help="scale larger images down to this shorter side")
    sub.add_argument("--quality", type=int, default=95, help="JPEG quality of the images scaled down (default 95)")
    sub.add_argument(
        "--jobs", type=int, help="processes that read and resize (default: one per available core, at most 8)"
    )

    sub = command("cifar", _cifar, "Put CIFAR-10 into train.lmdb and val.lmdb.")
    sub.add_argument(
        "--source",
        type=Path,
        required=True,
        help="cifar-10-python.tar.gz or its folder; or images as train/<class>/, test/<class>/ in a folder, tar or zip",
    )
    sub.add_argument("--out", type=Path, required=True, help="folder for train.lmdb and val.lmdb")

    def scratch(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--scratch", metavar="FOLDER", help="on this node's own disk: copy the LMDB there and read the copy"
        )

    sub = command("pretrain", _pretrain, "Pre-train a slimmable network.")
    training(sub)
    scratch(sub)
    sub.add_argument("--data", type=Path, help=f"training images: {IMAGES}")
    sub.add_argument("--out", type=Path, required=True, help="folder of the results")
    sub.add_argument("--paper", action="store_true", help="the recipe is the paper's")
    sub.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="go on from this one (default: the newest of this recipe)"
    )

    sub = command("probe", _probe, "Train and evaluate linear probes of all widths.")
    training(sub)
    scratch(sub)
    sub.add_argument("--weights", type=Path, required=True, help="weights.safetensors of the run")
    sub.add_argument("--train", type=Path, required=True, help=f"training images: {IMAGES}")
    sub.add_argument("--val", type=Path, required=True, help=f"validation images: {IMAGES}")
    sub.add_argument("--out", type=Path, required=True, help="metrics.json to write")

    sub = command("transfer", _transfer, "Fine-tune Mask R-CNN on COCO and evaluate every width.")
    training(sub)
    sub.add_argument("--weights", type=Path, required=True, help="weights.safetensors of the run")
    sub.add_argument("--coco", type=Path, required=True, help="folder with annotations/, train2017/, val2017/")
    sub.add_argument("--out", type=Path, required=True, help="metrics.json to write")

    sub = command("import", _import, "Turn a checkpoint of the reference implementation into a weights file.")
    sub.add_argument("file", type=Path, metavar="FILE", help="its .pth.tar, of pre-training or of a linear probe")
    sub.add_argument("--out", type=Path, metavar="WEIGHTS", required=True, help="weights file to write (.safetensors)")
    sub.add_argument("--name", dest="run", metavar="RUN", help="the run's name (default: the file's)")
    sub.add_argument("--no-hash-check", dest="hash_check", action="store_false", help="accept a hash that does not fit")
    sub.add_argument("--val", type=Path, metavar="DATA", help=f"photos to try its classifier on: {IMAGES}")
    sub.add_argument(
        "--photos", type=int, default=200, metavar="N", help="photos to try, over all classes (default 200)"
    )

    sub = command("report", _report, "Write tables, figures and the page over all runs.")
    sub.add_argument("--config", required=True, help="JSON with name, config and recipes")
    sub.add_argument("--results", type=Path, required=True, help="folder with pretrain/, probe/, transfer/")
    sub.add_argument("--references", type=Path, required=True, help="published figures (YAML)")
    sub.add_argument("--out", type=Path, required=True, help="folder of the report")

    def config(sub: argparse.ArgumentParser) -> None:
        default = REPOSITORY / "config" / "config.yaml"
        sub.add_argument("--config", type=Path, default=default, help="default: config/config.yaml")

    sub = command("recipe", _recipe, "Show what a recipe becomes on a number of GPUs.")
    sub.add_argument("run", metavar="RUN", help="a recipe's name")
    sub.add_argument("--gpus", type=_at_least(1), default=1, help="GPUs that train (default 1)")
    sub.add_argument("--images", type=_at_least(1), default=1_281_167, help="training images (default: ImageNet's)")
    config(sub)

    sub = command("check", _check, "Check a config and its recipes.")
    config(sub)

    sub = command("schema", _schema, "Print the JSON schema of config and recipes.")
    sub.add_argument("--markdown", action="store_true", help="print config/README.md instead")

    sub = command("doctor", _doctor, "Look for what would stop a run on this machine; exit status 1 on a failure.")
    config(sub)
    sub.add_argument("--scratch", type=Path, metavar="FOLDER", help="node-local scratch (default: paths.scratch)")
    sub.add_argument(
        "--image",
        nargs="?",
        const=os.environ.get("SLIMCLR_IMAGE", ""),
        metavar="NAME",
        help="instead the self-test of the container image that this runs in (or of the environment NAME)",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("plan", _plan, "Forecast hours, requeues, disk and memory of all jobs, before anything is submitted.")
    sub.add_argument("targets", nargs="*", default=["all"], metavar="TARGET", help="what to make (default: all)")
    default = REPOSITORY / "config" / "config.yaml"
    sub.add_argument("--config", "--configfile", type=Path, default=default, help="default: config/config.yaml")
    sub.add_argument("--profile", default="local", help="local (default), slurm, or the folder of a Snakemake profile")
    sub.add_argument("--gpus", type=int, metavar="N", help="GPUs of each node of a training (default: the profile's)")
    sub.add_argument("--time-limit", metavar="TIME", help="of a job: 24h, 90m or 2d (default: the profile's runtime)")
    sub.add_argument("--rates", type=Path, metavar="FILE", help="YAML with rates that need not be measured")
    sub.add_argument("--no-measure", dest="measure", action="store_false", help="what is not stated stays unknown")
    sub.add_argument("--write-rates", type=Path, metavar="FILE", help="write the rates that were used")
    sub.add_argument(
        "--largest-batch", metavar="RUN", help="instead the largest batch of this run that fits into memory here"
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("clean-checkpoints", _clean, "Free checkpoints that finished stages no longer need.")
    sub.add_argument("--checkpoints", type=Path, required=True, help="folder with <stage>/<run>/")
    sub.add_argument("--results", type=Path, required=True, help="folder with <stage>/<run>/metrics.json")
    sub.add_argument("--dry-run", action="store_true", help="only show sizes")
    return parser
