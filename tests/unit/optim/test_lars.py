"""LARS with a gradient scaler; its steps themselves are compared with the reference's (methods/test_golden.py)."""

import copy

import pytest
import torch
from torch import nn

from slimclr.optim import LARS


def network():
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def train(module, optimizer, steps, *, scaler=None, spoil=()):
    for step in range(steps):
        optimizer.zero_grad()
        loss = module(torch.full((2, 5), 0.1 * (step + 1))).square().sum()
        if step in spoil:
            loss = loss * float("inf")
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()


def values(module, optimizer):
    return [*module.parameters(), *(state["momentum_buffer"] for state in optimizer.state.values())]


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_a_step_that_is_left_out_moves_nothing(spoilt):
    module = network()
    optimizer = LARS(module.parameters(), lr=0.1, weight_decay=1e-2, trust=0.1)
    train(module, optimizer, 2)
    before = copy.deepcopy(values(module, optimizer))
    for parameter in module.parameters():
        parameter.grad.fill_(spoilt)
    optimizer.found_inf = torch.tensor([1.0])
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(values(module, optimizer), before, strict=True))
    optimizer.found_inf = torch.tensor([0.0])
    module(torch.ones(1, 5)).sum().backward()  # adds to what is not finite: this step is not left out
    optimizer.step()
    assert not any(parameter.isfinite().all() for parameter in module.parameters())


def test_a_gradient_scaler_changes_nothing_and_leaves_out_what_overflows():
    plain, scaled = network(), network()
    options = {"lr": 0.1, "weight_decay": 1e-2, "trust": 0.1}
    one, other = LARS(plain.parameters(), **options), LARS(scaled.parameters(), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    train(plain, one, 3)
    train(scaled, other, 3, scaler=scaler)
    for a, b in zip(values(plain, one), values(scaled, other), strict=True):
        torch.testing.assert_close(a, b)
    before = copy.deepcopy(values(scaled, other))
    train(scaled, other, 1, scaler=scaler, spoil=(0,))
    assert all(torch.equal(a, b) for a, b in zip(values(scaled, other), before, strict=True))
    assert scaler.get_scale() == 2.0**9
