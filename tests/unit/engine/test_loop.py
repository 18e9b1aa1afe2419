"""The training loop: slow start, resume, records."""

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
import torch

from slimclr.engine.checkpoints import list_checkpoints
from slimclr.engine.records import Records
from slimclr.errors import UserError
from tests.helpers.small_run import trainer


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_sub_networks_join_at_slow_start_and_are_untouched_before(images, tmp_path):
    before = trainer(images, tmp_path, epochs=1)
    start = {name: tensor.clone() for name, tensor in before.method.query_encoder.named_parameters()}
    before.train()
    for name, tensor in before.method.query_encoder.named_parameters():
        # neither updated nor decayed
        assert torch.equal(tensor, start[name]) == ("0_5" in name), name
    after = trainer(images, tmp_path, epochs=2)
    after.train()
    moved = [n for n, t in after.method.query_encoder.named_parameters() if "0_5" in n and not torch.equal(t, start[n])]
    assert moved
    assert [sorted(line["widths"]) for line in records(tmp_path)] == [["1.0"], ["1.0"], ["0.5", "1.0"], ["0.5", "1.0"]]


def test_a_record_is_the_mean_of_its_steps(images, tmp_path):
    for name, log_every in (("single", 1), ("mean", 2)):
        trainer(images, tmp_path / name, log_every=log_every).train()
    single, mean = records(tmp_path / "single"), records(tmp_path / "mean")
    assert [line["step"] for line in mean] == [2, 4, 6]
    for index, line in enumerate(mean):
        pair = single[2 * index : 2 * index + 2]
        assert line["loss"] == pytest.approx(sum(one["loss"] for one in pair) / 2)
        assert line["gradient_norm"] == pytest.approx(sum(one["gradient_norm"] for one in pair) / 2)
        for width, values in line["widths"].items():
            for key, value in values.items():
                assert value == pytest.approx(sum(one["widths"][width][key] for one in pair) / 2), (width, key)


def test_the_log_says_how_it_goes_and_what_it_waits_for(images, tmp_path, capsys):
    run = trainer(images, tmp_path, slow_start_epoch=0)

    class Slow(type(run.loader)):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.5)
                yield batch

    run.loader.__class__ = Slow
    run.train()
    assert all(line["data_wait"] > 0.3 for line in records(tmp_path))
    told = capsys.readouterr().err.splitlines()[-1]
    pattern = (
        r"train: 6/6 steps, .* steps/s, loss [\d.]+, 1.0: [\d.]+ \(\d+ %\), 0.5: [\d.]+ \(\d+ %\), "
        r"lr 0.05, \d+ images/s, waiting for data \d\d % of the time, \d+\.\d GB"
    )
    assert re.fullmatch(pattern, told)


def test_a_finished_run_trains_no_further(images, tmp_path):
    trainer(images, tmp_path, epochs=1).train()
    again = trainer(images, tmp_path, epochs=1)
    again.train()
    assert again.step == 2


def test_a_loss_that_is_not_finite_moves_nothing_and_leaves_what_to_look_at(images, tmp_path):
    run = trainer(images, tmp_path, epochs=1, log_every=100)
    before = {name: tensor.clone() for name, tensor in run.method.query_encoder.state_dict().items()}
    start, seen = run.method.forward, []

    def spoilt(*arguments):
        output = start(*arguments)
        seen.append({name: p.detach().clone() for name, p in run.method.query_encoder.named_parameters()})
        return dataclasses.replace(output, loss=output.loss * float("nan")) if len(seen) == 2 else output

    run.method.forward = spoilt
    with pytest.raises(UserError, match=r"the loss is nan at step 2 .*did not move.*lower optimizer.lr") as error:
        run.train()
    assert list_checkpoints(tmp_path) == []
    for name, parameter in run.method.query_encoder.named_parameters():
        assert torch.equal(parameter, seen[1][name])  # the first step moved it, the second did not
    assert any(not torch.equal(seen[1][name], before[name]) for name in seen[1])
    (path,) = tmp_path.glob("not_finite_step_*.pt")
    assert str(path) in str(error.value)
    left = torch.load(path, weights_only=True)
    assert left["step"] == 2
    assert "backbone.conv1.weight" in left["not_finite_gradients"]
    assert [batch.tolist() for batch in left["images"]] == [run.loader.sampler.batches(0)[1].tolist()]


def test_a_gradient_that_is_not_finite_stops_too(images, tmp_path):
    run = trainer(images, tmp_path, epochs=1)
    run.method.query_encoder.backbone.conv1.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"at step 1 .*1 parameters? ha"):
        run.train()
    assert all(parameter.isfinite().all() for parameter in run.method.parameters())


def test_which_gradients_are_not_finite_is_known_when_they_are_clipped(images, tmp_path):
    run = trainer(images, tmp_path, epochs=1)
    run.grad_clip = 1.0
    run.method.query_encoder.backbone.conv1.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match=r"at step 1 .*; 1 parameters have gradients"):
        run.train()


def test_half_floats_may_overflow_but_not_for_ever(images, tmp_path):
    run = trainer(images, tmp_path, epochs=60)
    run.precision, run.scaler = "fp16", torch.amp.GradScaler("cpu")
    broken = [3, 4]
    run.schedule = lambda step: now.append(step) or 0.01
    now = [0]
    weight = run.method.query_encoder.backbone.conv1.weight
    weight.register_hook(lambda gradient: gradient * float("nan" if now[-1] in broken or now[-1] > 40 else 1))
    with pytest.raises(UserError, match=r"the loss is \d\S* at step 92 .*1 parameters have gradients"):
        run.train()
    assert weight.isfinite().all()


def test_dali_is_built_once_for_all_epochs(images, tmp_path, monkeypatch):
    loader = pytest.importorskip("slimclr.data.loading.dali").DaliLoader
    built, build = [], loader._build
    monkeypatch.setattr(loader, "_build", lambda *args: built.append(args[1:]) or build(*args))
    trainer(images, tmp_path, epochs=3, backend="dali").train()
    assert built == [(0, 0)]


def test_a_run_that_begins_anew_leaves_nothing_of_the_one_before_in_tensorboard(images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    dead = Records(folder, step=0)
    for step in range(1, 6):
        dead.write({"step": step, "loss": 7.0})
    dead.close()
    time.sleep(1.1)  # events are ordered by seconds
    trainer(images, folder, epochs=1).train()
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]


def test_accumulated_batches_are_one_step(images, tmp_path):
    one = trainer(images, tmp_path, epochs=1, accumulation=2)
    one.train()
    assert [line["step"] for line in records(tmp_path)] == [1, 2]
    assert one.method.queue_pointer == 0  # 2 steps x 16 keys fill the queue of 32 once


def freeze_batch_norm(method):
    """With its running statistics batch norm looks at no batch, in training too."""
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module


def test_accumulated_batches_equal_one_large_batch(images, tmp_path):
    """Momentum, queue and optimiser move once a step; what batch norm sees is the only difference."""
    whole, parts = trainer(images, tmp_path / "whole"), trainer(images, tmp_path / "parts", accumulation=4)
    for run in (whole, parts):
        freeze_batch_norm(run.method)
        run.train()
    for name, tensor in whole.method.state_dict().items():
        torch.testing.assert_close(parts.method.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_gradients_are_clipped_to_the_norm(images, tmp_path):
    clipped = trainer(images, tmp_path, epochs=1)
    clipped.grad_clip = 1e-3
    start = {name: tensor.clone() for name, tensor in clipped.method.query_encoder.named_parameters()}
    norms = []
    step = clipped.optimizer.step
    clipped.optimizer.step = lambda: (
        norms.append(
            torch.nn.utils.get_total_norm(
                [p.grad for p in clipped.method.trainable().parameters() if p.grad is not None]
            )
        )
        or step()
    )
    clipped.train()
    assert [norm.item() for norm in norms] == pytest.approx([1e-3] * len(norms), rel=1e-3)
    assert any(not torch.equal(start[name], p) for name, p in clipped.method.query_encoder.named_parameters())


def test_gradient_records_come_at_their_interval(images, tmp_path):
    recorded = trainer(images, tmp_path, epochs=2)
    recorded.gradients_every = 3
    recorded.train()
    lines = records(tmp_path)
    assert [line["step"] for line in lines if "gradients" in line] == [3]
    gradients = lines[2]["gradients"]
    assert set(gradients["widths"]) == {"1.0", "0.5"}
    assert gradients["widths"]["0.5"]["ratio"] > 0
    assert gradients["widths"]["1.0"]["ratio"] is None  # the full network has no rest
    assert -1 <= gradients["cosine"]["1.0/0.5"] <= 1
    assert gradients["last_layer"]["singular_1"] >= gradients["last_layer"]["singular_2"] > 0


def test_the_monitor_reports_at_its_epochs(images, tmp_path):
    run = trainer(images, tmp_path, epochs=3)
    run.monitors = [(2, lambda: {"knn": {"1.0": 12.5}})]
    run.train()
    assert [(line["step"], line["knn"]) for line in records(tmp_path) if "knn" in line] == [(4, {"1.0": 12.5})]


@pytest.mark.slow
def test_memory_stays_flat(images, tmp_path):
    run = trainer(images, tmp_path, epochs=130, log_every=1000)
    used = []

    def watched(step):
        if step in (60, 259):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            used.append(int(fields["RssAnon"].split()[0]) / 1024)
        return 0.05

    run.schedule = watched
    run.train()
    assert used[1] - used[0] < 30  # MB, in 200 steps
