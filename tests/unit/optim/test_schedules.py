"""Schedules against the reference's figures."""

import json
from pathlib import Path

import pytest

from slimclr.optim import learning_rate

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "functions.json").read_text())["lr"]
CASES = [case for case in GOLDEN if case["mode"] in ("cos", "step")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['mode']}-{case['base_lr']}")
def test_learning_rate_equals_the_reference(case):
    got = [
        learning_rate(
            step,
            base=case["base_lr"],
            steps=case["total_steps"],
            warmup_steps=case["warmup_steps"],
            milestones=[epoch * case["steps_per_epoch"] for epoch in case.get("milestone_epochs", [])],
            gamma=case.get("gamma", 0.1),
            slim_start_step=case.get("slim_start_step"),
            slim_start_lr=case.get("slim_start_lr"),
        )
        for step in case["steps"]
    ]
    assert got == pytest.approx(case["lr"], rel=1e-6, abs=1e-9)


def test_without_slim_start_lr_the_base_rate_stays():
    plain = learning_rate(50, base=0.2, steps=100)
    assert learning_rate(50, base=0.2, steps=100, slim_start_step=50, slim_start_lr=None) == plain
