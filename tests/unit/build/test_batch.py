"""How the total batch is spread over GPUs."""

from pathlib import Path

import pytest

from slimclr.build.batch import plan_batch
from slimclr.config import Pretrain, load_recipe
from slimclr.errors import UserError

RUNS = Path(__file__).parents[3] / "config" / "runs"


def plan(run, gpus):
    return plan_batch(load_recipe(RUNS / f"{run}.yaml").pretrain, gpus)


@pytest.mark.parametrize(
    ("gpus", "per_gpu", "accumulation", "comparable"),
    [(4, 256, 1, True), (2, 256, 2, True), (1, 256, 4, True), (8, 128, 1, False)],
)
def test_batch_norm_per_gpu_keeps_its_batch_by_accumulation(gpus, per_gpu, accumulation, comparable):
    got = plan("slimclr_mocov2_200ep", gpus)
    assert (got.per_gpu, got.accumulation, not got.deviations) == (per_gpu, accumulation, comparable)


def test_why_it_is_not_comparable():
    assert plan("slimclr_mocov2_200ep", 8).deviations == ("batch norm sees 128 images, the recipe says 256",)


@pytest.mark.parametrize("run", ["slimclr_mocov3_300ep", "slimclr_simclr_100ep"])
def test_accumulation_that_changes_the_method_is_refused(run):
    assert plan(run, 8).accumulation == 1
    with pytest.raises(UserError, match=r"needs 2 accumulated batches.*use 8 GPUs.*allow_not_comparable"):
        plan(run, 4)


def test_it_runs_when_that_is_allowed():
    recipe = load_recipe(RUNS / "slimclr_mocov3_300ep.yaml").pretrain.model_copy(update={"allow_not_comparable": True})
    got = plan_batch(recipe, 4)
    assert (got.per_gpu, got.accumulation) == (128, 2)
    assert any("negatives come from 512 of 1024" in reason for reason in got.deviations)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="1024 images do not divide among 3 GPUs"):
        plan("slimclr_mocov2_200ep", 3)


SIMCLR = {
    "method": {"name": "simclr"},
    "epochs": 1,
    "batch": 4,
    "batch_norm": "synchronised",
    "optimizer": {"lr": 0.1},
    "views": "simclr",
    "allow_not_comparable": True,
}
MOCO = {"method": {"name": "mocov2"}, "epochs": 1, "batch": 4, "bn_batch": 4, "optimizer": {"lr": 0.1}}


def test_a_batch_norm_that_sees_one_value_is_refused():
    with pytest.raises(
        UserError, match=r"pretrain.batch: 4 images on 1 GPUs are 1 in a forward pass: batch norm would"
    ):
        plan_batch(Pretrain.model_validate(SIMCLR | {"max_batch_per_gpu": 1}), 1)
    with pytest.raises(UserError, match="4 images on 4 GPUs are 1 in a forward pass"):
        plan_batch(Pretrain.model_validate(MOCO | {"image_size": 32}), 4)


def test_one_image_is_enough_where_batch_norm_sees_more_of_it():
    assert plan_batch(Pretrain.model_validate(SIMCLR), 4).per_gpu == 1
    assert plan_batch(Pretrain.model_validate(MOCO | {"image_size": 64}), 4).per_gpu == 1


def test_moco_v2_without_shuffled_keys_is_refused_unless_that_is_allowed():
    with pytest.raises(UserError, match=r"batch norm sees all 4 images of a step.*set bn_batch to 2 or less"):
        plan_batch(Pretrain.model_validate(MOCO), 1)
    assert not plan_batch(Pretrain.model_validate(MOCO | {"bn_batch": 2}), 1).deviations
    got = plan_batch(Pretrain.model_validate(MOCO | {"allow_not_comparable": True}), 1)
    assert got.deviations == ("batch norm sees a whole step at once, so MoCo v2's keys are not shuffled",)
