"""Losses: what the reference's figures (methods/test_golden.py) do not show."""

import pytest
import torch

from slimclr.losses import (
    adaptive_temperature_distillation,
    decoupled_distillation,
    info_nce_logits,
    kl_distillation,
    loss_weights,
)
from slimclr.methods import SubNetworkLoss


def test_loss_weights_do_not_depend_on_the_order_of_widths():
    assert loss_weights("sub_sum_to_full", [0.25, 1.0, 0.5]) == {1.0: 1.75, 0.5: 1.0, 0.25: 1.0}


def test_info_nce_logits_put_the_own_key_first():
    query, key, queue = torch.eye(3), torch.eye(3), -torch.eye(3)
    logits = info_nce_logits(query, key, queue)
    assert logits.shape == (3, 4)
    assert torch.equal(logits[:, 0], torch.ones(3))
    assert torch.equal(logits[:, 1:], -torch.eye(3))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    logits = torch.randn(5, 7, dtype=torch.float64)
    targets = torch.arange(5)
    assert decoupled_distillation(logits, logits, targets).item() == pytest.approx(0.0, abs=1e-12)
    assert adaptive_temperature_distillation(logits, logits).item() == pytest.approx(0.0, abs=1e-12)
    # Only the direction counts: scale and offset of the logits are normalised away.
    assert adaptive_temperature_distillation(3 * logits + 1, logits).item() == pytest.approx(0.0, abs=1e-4)


def test_decoupled_distillation_with_the_teachers_weights_is_plain_kl():
    """KL = TCKD + (1 - teacher's probability of the right column) NCKD, arXiv 2203.08679, equation 5."""
    student, teacher, targets = torch.randn(1, 7), torch.randn(1, 7), torch.tensor([2])
    right = teacher.softmax(dim=1)[0, 2].item()
    kl = kl_distillation(student, teacher, student_temperature=1, teacher_temperature=1)
    entropy = -(teacher.softmax(dim=1) * teacher.log_softmax(dim=1)).sum()
    got = decoupled_distillation(student, teacher, targets, alpha=1.0, beta=1 - right)
    torch.testing.assert_close(got, kl - entropy)


def distances(**options):
    """Which teachers a width learned from: the distillation is the difference of their first logits."""
    losses = {1.0: torch.tensor(1.0), 0.5: torch.tensor(1.0), 0.25: torch.tensor(1.0)}
    logits = {width: torch.full((1, 2), width) for width in losses}
    features = {width: torch.full((1, 2), 10 * width) for width in losses}
    combine = SubNetworkLoss(
        dict.fromkeys(losses, 1.0), lambda student, teacher, _: (teacher - student)[0, 0], share=1.0, **options
    )
    output = combine(losses, logits, torch.zeros(1, dtype=torch.long), features)
    return [result.loss.item() for result in output.widths.values()]


def test_whom_a_sub_network_learns_from():
    assert distances() == [1.0, 0.5, 0.75]
    assert distances(full_distill=True) == [1.0, 0.5, pytest.approx((0.75 + 0.25) / 2)]
    assert distances(on="features") == [1.0, 5.0, 7.5]
