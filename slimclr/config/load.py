"""Reading config, recipes and sections; every mistake is one line."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from slimclr.config.base import M, Model, dump
from slimclr.config.checkpoint import Checkpoint
from slimclr.config.detection import Detection
from slimclr.config.errors import did_you_mean, validated
from slimclr.config.finetune import FineTune
from slimclr.config.init import check_inits
from slimclr.config.pipeline import Config
from slimclr.config.pretrain import Pretrain
from slimclr.config.probe import Probe
from slimclr.config.quick import Quick
from slimclr.config.recipe import Recipe, seeded_runs
from slimclr.config.strict_yaml import read_yaml
from slimclr.errors import UserError


def load_config(source: Mapping[str, Any] | Path, *, name: str = "config") -> Config:
    """Validate the pipeline's config.

    Args:
        source: The parsed YAML, or its path.
        name: What error messages call it.

    Raises:
        UserError: One line per mistake: the key's path, the value and what is allowed.
    """
    if isinstance(source, Path):
        name, source = str(source), _read_mapping(source)
    config = validated(Config, source, name)
    for run in config.runs:
        if config.runs.count(run) > 1:
            raise UserError(f"{name}: runs: {run!r} is named twice")
    return config


def load_recipe(source: Mapping[str, Any] | Path, *, name: str = "recipe") -> Recipe:
    """Validate one recipe; arguments and errors as for `load_config`."""
    if isinstance(source, Path):
        name, source = str(source), _read_mapping(source)
    return validated(Recipe, source, name)


def load_recipes(config: Config, root: Path) -> dict[str, Recipe]:
    """The recipes of a config's runs, by run.

    Args:
        config: The config.
        root: The repository, from which a relative `recipes` folder starts.
    """
    folder = root / config.recipes
    recipes = {}
    for run in config.runs:
        path = folder / f"{run}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in folder.glob("*.yaml"))
            raise UserError(f"runs: {run!r} has no recipe: {path} does not exist{did_you_mean(run, known)}")
        recipes[run] = load_recipe(path)
        pretrain = recipes[run].pretrain
        if pretrain and pretrain.method.name == "random" and run != f"random_{pretrain.backbone.arch}":
            raise UserError(
                f"{path}: a random backbone's run is named random_<arch>, here random_{pretrain.backbone.arch}"
            )
    check_inits(recipes)
    instances = [instance for run, recipe in recipes.items() for instance in seeded_runs(run, recipe)]
    for instance in instances:
        if instances.count(instance) > 1:
            raise UserError(f"runs: two runs would both write results of the name {instance!r}; rename one")
    return recipes


# Section that a stage takes -> its name, and the file that it is a part of.
_WHOLE: dict[type[Model], tuple[str, type[Model]]] = {
    Pretrain: ("pretrain", Recipe),
    Checkpoint: ("checkpoint", Recipe),
    Probe: ("probe", Recipe),
    Quick: ("quick_section", Recipe),
    FineTune: ("finetune", Recipe),
    Detection: ("detection", Config),
}


def parse_section(model: type[M], text: str, changes: Mapping[str, Any] = MappingProxyType({})) -> M:
    """Read a section from the command line: JSON, or the path of a YAML file, of the section or of all around it.

    Args:
        model: The section; `Pretrain`, `Checkpoint` and `Probe` also out of a run's recipe, `Detection` also out of a
            config.
        text: JSON or path.
        changes: Keys that take the place of those in `text`.

    Raises:
        UserError: Neither, or not valid for `model`.
    """
    name = "command line"
    if text.lstrip().startswith("{"):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"command line: not JSON ({error}); give JSON, or the path of a YAML file") from None
    else:
        name = text
        values = _read_mapping(Path(text))
    section, whole = _WHOLE.get(model, ("", None))
    if whole and isinstance(values, dict) and any(key in values for key in (section, *_required(whole))):
        found = getattr(validated(whole, values, name), section)
        if found is None:
            raise UserError(f"{name}: has no section {section}; add it, or name another recipe")
        values = dump(found)
    return validated(model, {**values, **changes} if isinstance(values, dict) else values, name)


def _required(model: type[Model]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _read_mapping(path: Path) -> Mapping[str, Any]:
    value = read_yaml(path)
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: must hold keys and values")
    return value
