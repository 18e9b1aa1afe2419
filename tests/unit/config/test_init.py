"""`init` in recipes: which runs can begin with which."""

import pytest
import yaml

from slimclr.config import Config, load_config, load_recipes
from slimclr.errors import UserError
from tests.helpers.small_recipe import RECIPE

MOCO = {"method": {"name": "mocov2", "queue": 64}}
PROBE = {"epochs": 1, "batch": 8, "optimizer": {"lr": 0.3}}


def recipes(folder, **inits):
    """Recipes that begin with one another, by what their pretrain section says besides."""
    for run, changes in inits.items():
        document = {"pretrain": RECIPE | MOCO | changes, "probe": PROBE, "seeds": [0, 1]}
        (folder / f"{run}.yaml").write_text(yaml.safe_dump(document))
    config: Config = load_config({"runs": list(inits), "recipes": str(folder)})
    return load_recipes(config, folder)


def test_a_run_a_seed_or_a_file(tmp_path):
    found = recipes(
        tmp_path,
        a={"keep_state": True},
        b={"init": "a", "init_take": "state"},
        c={"init": "b_seed1"},
        d={"init": "other/weights.safetensors", "init_take": "head"},
    )
    assert [recipe.pretrain.init_is_file for recipe in found.values()] == [False, False, False, True]


@pytest.mark.parametrize(
    ("inits", "told"),
    [
        (
            {"first": {}, "b": {"init": "frist"}},
            "b: pretrain.init: 'frist' is no run .*did you mean 'first'",
        ),
        ({"a": {"init": "b"}, "b": {"init": "a"}}, r"wait for each other \(a -> b -> a\)"),
        ({"a": {"init": "a_seed1"}}, r"wait for each other \(a -> a\)"),
        ({"a": {}, "b": {"init": "a", "init_take": "state"}}, "needs keep_state: true in the recipe of a"),
        ({"a": {"init_take": "head"}}, "init_take head needs init"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, inits, told):
    with pytest.raises(UserError, match=told):
        recipes(tmp_path, **inits)
