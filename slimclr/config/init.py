"""Runs that begin with the weights of others."""

from collections.abc import Mapping

from slimclr.config.errors import did_you_mean
from slimclr.config.recipe import Recipe, seeded_runs
from slimclr.errors import UserError


def check_inits(recipes: Mapping[str, Recipe]) -> None:
    """Check that every `init` names a run that can be made before.

    Args:
        recipes: By run.

    Raises:
        UserError: There is no such run, runs wait for each other, or a run that is to give its state keeps none.
    """
    run_of = {folder: run for run, recipe in recipes.items() for folder in seeded_runs(run, recipe)}
    begins_with = {}
    for run, recipe in recipes.items():
        own = recipe.pretrain
        init = own.init if own else None
        if own is None or init is None or own.init_is_file:
            continue
        if init not in run_of:
            raise UserError(f"{run}: pretrain.init: {init!r} is no run of this config{did_you_mean(init, [*run_of])}")
        begins_with[run] = other = run_of[init]
        trained = recipes[other].pretrain
        if own.init_take == "state" and not (trained and trained.keep_state):
            raise UserError(f"{run}: pretrain.init_take state needs keep_state: true in the recipe of {other}")
    for run in begins_with:
        way = [run]
        while way[-1] in begins_with:
            way.append(begins_with[way[-1]])
            if way[-1] in way[:-1]:
                raise UserError(
                    f"{run}: pretrain.init: runs wait for each other ({' -> '.join(way)}); break the circle"
                )
