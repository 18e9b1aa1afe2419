"""Every run of the paper's config builds its model and takes a step."""

from pathlib import Path

import pytest
import torch

from slimclr.build.method import build_method
from slimclr.build.optimizer import build_optimizer
from slimclr.config import load_config, load_recipes
from slimclr.nn import build_backbone

ROOT = Path(__file__).parents[3]
RECIPES = {
    run: recipe.pretrain
    for run, recipe in load_recipes(load_config(ROOT / "config/config.yaml"), ROOT).items()
    if recipe.paper and recipe.pretrain.epochs
}


def test_the_papers_runs_are_nine():
    assert len(RECIPES) == 9


@pytest.mark.slow
@pytest.mark.parametrize("run", RECIPES)
def test_a_run_of_the_paper_takes_a_step(run):
    recipe = RECIPES[run]
    torch.manual_seed(0)
    method = build_method(recipe, build_backbone(**recipe.backbone.model_dump()), classes=1000).train()
    optimizer = build_optimizer(recipe.optimizer, method.trainable())
    before = {name: tensor.clone() for name, tensor in method.trainable().named_parameters()}
    views = [torch.randn(2, 3, 224, 224) for _ in range(1 if recipe.method.name == "supervised" else 2)]
    epoch = recipe.epochs - 1
    method.require_gradients(epoch)
    method.before_step(epoch, 0, [views])
    output = method(views, torch.arange(2), epoch)
    output.loss.backward()
    method.after_step()
    optimizer.step()
    assert list(output.widths) == sorted(recipe.backbone.widths, reverse=True)
    assert all(torch.isfinite(result.loss) for result in output.widths.values())
    moved = {name for name, tensor in method.trainable().named_parameters() if not torch.equal(tensor, before[name])}
    # Blocks begin as identities: what lies behind a zero scale has no gradient yet and only decays.
    assert {name for name in before if name.endswith("conv1.weight") and "stages" not in name} <= moved
    assert all(torch.isfinite(tensor).all() for tensor in method.trainable().parameters())
