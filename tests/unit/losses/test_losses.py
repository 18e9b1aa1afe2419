"""Losses against the reference's figures (tests/golden/functions.json, made as its README says)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from slimclr.losses import info_nce_logits, kl_distillation, loss_weights

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "functions.json").read_text())
RULES = {
    0: "equal",
    1: "share",
    2: "width",
    3: "width_mean_1",
    5: "sub_sum_to_full",
    6: "cumulative",
    7: "next_to_full",
}


def normal(tag, shape):
    return np.random.Generator(np.random.Philox(key=zlib.crc32(tag.encode()))).standard_normal(shape)


@pytest.mark.parametrize(
    "case", GOLDEN["loss_weights"], ids=lambda case: f"{RULES[case['mode']]}-{len(case['widths'])}"
)
def test_loss_weights_equal_the_reference(case):
    weights = loss_weights(RULES[case["mode"]], case["widths"])
    assert list(weights) == case["widths"]
    assert list(weights.values()) == pytest.approx(case["weights"], abs=1e-9)


def test_loss_weights_do_not_depend_on_the_order_of_widths():
    assert loss_weights("sub_sum_to_full", [0.25, 1.0, 0.5]) == {1.0: 1.75, 0.5: 1.0, 0.25: 1.0}


@pytest.mark.parametrize(
    ("name", "student", "teacher"), [("kl_T1", 1, 1), ("kl_T5", 5, 5), ("kl_student3_teacher2", 3, 2)]
)
def test_kl_distillation_equals_the_reference(name, student, teacher):
    logits = torch.tensor(2 * normal("student", (6, 17)), dtype=torch.float32, requires_grad=True)
    target = torch.tensor(2 * normal("teacher", (6, 17)), dtype=torch.float32, requires_grad=True)
    loss = kl_distillation(logits, target, student_temperature=student, teacher_temperature=teacher)
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN["distillation"][name]["loss"], rel=1e-4)
    assert logits.grad.norm().item() == pytest.approx(GOLDEN["distillation"][name]["grad_norm"], rel=1e-4)
    assert target.grad is None


def test_info_nce_logits_put_the_own_key_first():
    query, key, queue = torch.eye(3), torch.eye(3), -torch.eye(3)
    logits = info_nce_logits(query, key, queue)
    assert logits.shape == (3, 4)
    assert torch.equal(logits[:, 0], torch.ones(3))
    assert torch.equal(logits[:, 1:], -torch.eye(3))
