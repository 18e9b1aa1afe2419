"""The finite check on an NVIDIA GPU: nothing waits for it, and still no weight is spoilt."""

import pytest
import torch

from slimclr.engine.finite import FiniteCheck
from slimclr.optim import LARS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU on this machine"),
]


@pytest.mark.parametrize("lars", [False, True])
def test_the_kernel_leaves_the_step_out_and_the_numbers_come_a_step_later(lars):
    gpu = torch.device("cuda")
    module = torch.nn.Linear(2, 2, bias=False, device=gpu)
    optimizer = LARS(module.parameters(), lr=1.0) if lars else torch.optim.SGD(module.parameters(), lr=1.0, fused=True)
    scaler, check, weights = torch.amp.GradScaler("cuda", enabled=False), FiniteCheck(module, gpu), []
    for step, value in enumerate((1.0, float("nan"), 1.0), start=1):
        weights.append(module.weight.detach().clone())
        module.weight.grad = torch.full_like(module.weight, value)
        losses, norm = torch.full((3,), value, device=gpu), torch.full((), value, device=gpu)
        torch.cuda.set_sync_debug_mode("error")
        try:
            numbers = check.numbers(losses, norm, scaled=False)
            check.step(optimizer, scaler)
            check.check(step, numbers)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert (check.found is not None) == (step == 3)
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], module.weight)
    assert (check.found.step, check.found.gradients) == (2, None)
