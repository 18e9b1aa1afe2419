"""The training loop: slow start, resume, records."""

import json
from functools import partial

import pytest
import torch

from slimclr.data.loaders import training_loader
from slimclr.engine.checkpoints import list_checkpoints
from slimclr.engine.distributed import Processes
from slimclr.engine.loop import Trainer
from slimclr.errors import UserError
from slimclr.losses import kl_distillation, loss_weights
from slimclr.methods import MoCoV2, SubNetworkLoss
from slimclr.nn import SlimmableResNet

WIDTHS = (1.0, 0.5)
ALONE = Processes(0, 1, torch.device("cpu"))


def trainer(images, folder, *, epochs=3, lr=0.05, slow_start_epoch=1, workers=0, schedule=None, accumulation=1):
    torch.manual_seed(0)
    method = MoCoV2(
        SlimmableResNet(14, 8, WIDTHS),
        dim=16,
        queue=32,
        momentum=0.9,
        slow_start_epoch=slow_start_epoch,
        combine=SubNetworkLoss(
            loss_weights("sub_sum_to_full", WIDTHS),
            partial(kl_distillation, student_temperature=5.0, teacher_temperature=5.0),
        ),
    )
    loader = training_loader(
        images,
        "mocov2",
        image_size=32,
        total_batch=16,
        batch=16 // accumulation,
        seed=0,
        workers=workers,
    )
    return Trainer(
        method=method,
        optimizer=torch.optim.SGD(method.trainable().parameters(), lr=lr, momentum=0.9, weight_decay=1e-4),
        schedule=schedule or (lambda step: lr),
        loader=loader,
        epochs=epochs,
        where=ALONE,
        folder=folder,
        accumulation=accumulation,
        log_every=1,
    )


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [(line["step"], line["loss"]) for line in records(folder)]


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


def test_resume_equals_an_uninterrupted_run(images, tmp_path):
    whole = trainer(images, tmp_path / "whole")
    whole.train()

    class Killed(Exception):
        pass

    def die_in_the_third_epoch(step):
        if step == 5:
            raise Killed
        return 0.05

    with pytest.raises(Killed):
        trainer(images, tmp_path / "killed", schedule=die_in_the_third_epoch).train()
    assert [path.name for path in list_checkpoints(tmp_path / "killed")] == ["epoch_00001.pt", "epoch_00002.pt"]
    assert losses(tmp_path / "killed")[-1][0] == 5  # a step of the epoch that has no checkpoint yet
    # another number of workers changes nothing
    resumed = trainer(images, tmp_path / "killed", workers=1)
    resumed.train()
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for name, tensor in whole.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[name], tensor), name


def test_a_finished_run_trains_no_further(images, tmp_path):
    trainer(images, tmp_path, epochs=1).train()
    again = trainer(images, tmp_path, epochs=1)
    again.train()
    assert again.step == 2


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(images, tmp_path):
    with pytest.raises(UserError, match=r"the loss is nan at step.*lower optimizer.lr"):
        trainer(images, tmp_path, lr=1e20).train()
    assert list_checkpoints(tmp_path) == []


def test_a_damaged_checkpoint_is_named(images, tmp_path):
    trainer(images, tmp_path, epochs=2).train()
    newest = list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"epoch_00002.pt: damaged checkpoint.*delete it"):
        trainer(images, tmp_path).train()


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
