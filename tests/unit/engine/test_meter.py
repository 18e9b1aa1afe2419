"""The meter: what a record says, and what of it a checkpoint keeps."""

import time

import pytest
import torch

from slimclr.engine.meter import Meter, batch_losses
from slimclr.methods.base import Output, WidthResult

CPU = torch.device("cpu")
WIDTHS = (1.0, 0.5)


class Lines(list):
    """Records in memory."""

    write = list.append


def batch(loss):
    """Losses of a batch of two widths, half of whose images are right at width 0.5."""
    full = WidthResult(torch.tensor(loss), torch.tensor(1.0))
    half = WidthResult(torch.tensor(2 * loss), torch.tensor(0.5))
    return batch_losses(Output(torch.tensor(3 * loss, requires_grad=True), {1.0: full, 0.5: half}))


def written(meter, step=3):
    lines = Lines()
    meter.write(lines, step=step, epoch=1.23456789, lr=0.03, widths=WIDTHS)
    (line,) = lines
    return line


def test_a_batch_is_its_loss_and_each_widths_loss_and_accuracy_without_a_graph():
    losses = batch(1.5)
    assert losses.tolist() == [4.5, 1.5, 1.0, 3.0, 0.5]
    assert not losses.requires_grad


def test_a_record_is_the_mean_over_batches_and_steps_and_the_next_begins_anew():
    meter = Meter(CPU)
    meter.add([batch(1.0), batch(2.0)], torch.tensor(5.0), images=8)
    meter.add([batch(3.0), batch(6.0)], torch.tensor(7.0), images=8)
    meter.gradients = {"cosine": {"1.0/0.5": 0.25}}
    line = written(meter)
    assert list(line) == [
        "step", "epoch", "lr", "loss", "gradient_norm", "widths", "images_per_s", "data_wait", "memory_mb", "gradients",
    ]  # fmt: skip
    assert (line["step"], line["epoch"], line["lr"], line["loss"], line["gradient_norm"]) == (3, 1.2346, 0.03, 9.0, 6.0)
    assert line["widths"] == {"1.0": {"loss": 3.0, "accuracy": 100.0}, "0.5": {"loss": 6.0, "accuracy": 50.0}}
    assert line["gradients"] == {"cosine": {"1.0/0.5": 0.25}}
    assert meter.note.startswith("loss 9, 1.0: 3 (100 %), 0.5: 6 (50 %), lr 0.03, ")
    meter.add([batch(4.0)], torch.tensor(1.0), images=8)
    line = written(meter)
    assert (line["loss"], line["gradient_norm"]) == (12.0, 1.0)
    assert "gradients" not in line


def test_a_process_without_records_begins_anew_too():
    meter = Meter(CPU)
    meter.add([batch(1.0)], torch.tensor(5.0), images=8)
    meter.gradients = {"cosine": {}}
    meter.write(None, step=1, epoch=0.5, lr=0.1, widths=WIDTHS)
    assert meter.state_dict() == {"losses": [], "norms": []}
    assert (meter.gradients, meter.note) == ({}, "")


def test_a_record_of_a_resumed_run_holds_what_came_before():
    before, whole = Meter(CPU), Meter(CPU)
    for meter in (before, whole):
        meter.add([batch(0.1)], torch.tensor(5.3), images=8)
    after = Meter(CPU)
    after.load_state_dict(before.state_dict())
    for meter in (after, whole):
        meter.add([batch(0.7)], torch.tensor(2.1), images=8)
    resumed, uninterrupted = written(after), written(whole)
    for key in ("loss", "gradient_norm", "widths"):
        assert resumed[key] == uninterrupted[key]


def test_waiting_for_data_and_speed_are_those_since_the_last_record():
    def slow():
        for number in range(3):
            time.sleep(0.1 if number else 0.0)
            yield number

    meter = Meter(CPU)
    time.sleep(0.2)  # before the epoch: not counted
    batches = meter.batches(slow())
    assert [next(batches), next(batches)] == [0, 1]
    meter.add([batch(1.0)], torch.tensor(1.0), images=10)
    line = written(meter)
    assert line["data_wait"] > 0.9
    assert line["images_per_s"] == pytest.approx(100, rel=0.2)
    time.sleep(0.1)
    meter.add([batch(1.0)], torch.tensor(1.0), images=10)
    assert written(meter)["data_wait"] == 0
    assert list(batches) == [2]
