"""What the CIFAR-10 benchmark makes of records; its runs take minutes and are not repeated here."""

import json
from pathlib import Path

from benchmarks.cifar_learns import ALONE, SHUFFLED, curve, summary
from slimclr.config import load_recipe

RECIPES = Path(__file__).parents[2] / "config/runs/cifar10_small"


def test_the_loss_of_the_full_width_has_no_weight_any_more(tmp_path):
    """Before slow start its weight is 1, then 1 + 0.5 + 0.25."""
    alone = {"step": 1, "gradient_norm": 1.0, "widths": {"1.0": {"loss": 5.0, "accuracy": 2.0}}}
    both = {"1.0": {"loss": 7.0, "accuracy": 4.0}, "0.5": {"loss": 3.0, "accuracy": 6.0}}
    records = tmp_path / "metrics.jsonl"
    lines = [alone, {"step": 1, "knn": {"1.0": 30.0}}, alone | {"step": 2, "widths": both}]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = curve(records, load_recipe(RECIPES / "slimclr_mocov2.yaml"))
    assert (first["loss_width_1"], first["accuracy"]) == (5.0, {"1.0": 2.0})
    assert (second["loss_width_1"], second["accuracy"], second["to_step"]) == (4.0, {"1.0": 4.0, "0.5": 6.0}, 2)


def test_a_summary_has_mean_least_and_greatest_over_seeds():
    results = [{"run": "a", "widths": {"1.0": {"ridge_top1": value}}} for value in (30.0, 34.0, 35.0)]
    assert summary(results) == {"a": {"1.0": {"ridge_top1": [33.0, 30.0, 35.0]}}}


def test_the_runs_differ_in_the_groups_of_batch_norm_alone():
    main, other = (
        load_recipe(RECIPES / f"{run}.yaml").pretrain.model_dump(exclude={"bn_batch", "allow_not_comparable"})
        for run in (SHUFFLED, ALONE)
    )
    assert main == other
