"""The finite check: when it looks, what it lets through, what it leaves behind."""

import pytest
import torch

from slimclr.engine import finite
from slimclr.engine.finite import MAX_OVERFLOWS, FiniteCheck, report_not_finite

CPU = torch.device("cpu")
NAN = float("nan")
OFF = torch.amp.GradScaler("cpu", enabled=False)


class Run:
    """A weight that every step moves by 1, under a finite check."""

    def __init__(self, *, later=False):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=1.0)
        self.check, self.steps = FiniteCheck(self.module, CPU), 0
        self.check._later = later  # as on a GPU

    def step(self, loss=1.0, gradient=-1.0):
        """Gives whether the weight moved."""
        before = self.module.weight.detach().clone()
        self.module.weight.grad = torch.full((1, 1), gradient)
        numbers = self.check.numbers(torch.tensor([loss, loss, 0.5]), torch.tensor(abs(gradient)), scaled=False)
        self.check.step(self.optimizer, OFF)
        self.steps += 1
        self.check.check(self.steps, numbers)
        return not torch.equal(before, self.module.weight)


@pytest.mark.parametrize("spoilt", [{"loss": NAN}, {"gradient": float("inf")}])
def test_on_the_cpu_it_looks_at_once_and_nothing_moves_any_more(spoilt):
    run = Run()
    assert run.step()
    assert run.check.found is None
    assert not run.step(**spoilt)
    assert run.check.found.step == 2
    assert run.check.found.gradients == (["weight"] if "gradient" in spoilt else [])
    assert not run.step()
    assert not run.step(loss=NAN)
    assert run.check.found.step == 2  # the first one
    assert run.check.check_pending()


@pytest.fixture
def waits(monkeypatch):
    """Copies on the CPU that stand for those of a GPU; gives the steps whose numbers were waited for."""
    steps = []

    class Copy:
        def __init__(self, step, numbers):
            self.step, self._numbers = step, numbers.clone()

        def wait(self):
            steps.append(self.step)
            return self._numbers

    monkeypatch.setattr(finite, "_Copy", Copy)
    return steps


def test_numbers_of_a_gpu_are_looked_at_a_step_later(waits):
    run = Run(later=True)
    assert run.step()
    assert waits == []
    assert not run.step(gradient=NAN)  # known on the device, so it is left out
    assert waits == [1]
    assert run.check.found is None
    run.step()
    assert waits == [1, 2]
    assert run.check.found.step == 2
    assert run.check.found.gradients is None  # those of step 3 are there by now


def test_at_an_epochs_end_numbers_of_a_gpu_are_waited_for(waits):
    run = Run(later=True)
    run.step()
    assert not run.check.check_pending()
    run.step(gradient=NAN)
    assert run.check.check_pending()
    assert waits == [1, 2]  # each once
    assert (run.check.found.step, run.check.found.gradients) == (2, ["weight"])
    assert run.check.check_pending()
    assert waits == [1, 2]


def test_overflows_of_a_scaled_gradient_count_only_in_a_row():
    run = Run()

    def numbers(norm, loss=1.0):
        return run.check.numbers(torch.tensor([loss]), torch.tensor(norm), scaled=True)

    for _ in range(2):
        for _ in range(MAX_OVERFLOWS):
            assert numbers(float("inf")).isfinite().all()
        assert numbers(1.0).isfinite().all()
    for _ in range(MAX_OVERFLOWS):
        assert numbers(NAN).isfinite().all()
    assert not numbers(NAN).isfinite().all()


def test_a_scaled_loss_that_is_not_finite_is_no_overflow():
    run = Run()
    run.check.check(1, run.check.numbers(torch.tensor([NAN]), torch.tensor(1.0), scaled=True))
    assert run.check.found.step == 1


def test_the_scaler_leaves_its_step_out_by_itself():
    run, scaler = Run(), torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, moved, scale in ((-4.0, 1.0, 4.0), (NAN, 1.0, 2.0)):
        scaler.scale(torch.ones(()))
        run.module.weight.grad = torch.full((1, 1), gradient)
        run.check.step(run.optimizer, scaler)
        assert run.module.weight.item() == moved
        assert scaler.get_scale() == scale


def test_the_report_holds_what_to_look_at(tmp_path):
    run, path = Run(), tmp_path / "not_finite.pt"
    run.step(loss=NAN, gradient=NAN)
    images = [torch.tensor([3, 1])]
    error = report_not_finite(
        run.check.found, path, name="toy", epoch=4, lr=0.5, widths=(1.0,), images=images, method=run.module
    )
    assert str(error) == (
        "toy: the loss is nan at step 1 (learning rate 0.5; 1 parameters have gradients that are not finite); that "
        f"step did not move the weights. Losses, weights and the batch's images are in {path}; lower optimizer.lr and "
        f"rerun, the checkpoints are in {tmp_path}"
    )
    left = torch.load(path, weights_only=True)
    assert left.keys() == {
        "step", "epoch", "lr", "loss", "widths", "images", "not_finite_gradients", "method",
    }  # fmt: skip
    assert (left["step"], left["epoch"], left["lr"], left["not_finite_gradients"]) == (1, 4, 0.5, ["weight"])
    assert list(left["widths"]) == ["1.0"]
    assert torch.equal(left["images"][0], images[0])
