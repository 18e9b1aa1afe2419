"""A run that was stopped anywhere goes on exactly as if it had not been."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from slimclr.config import Pretrain
from slimclr.engine.agreement import Agreement
from slimclr.engine.checkpoints import CheckpointManager, list_checkpoints
from slimclr.engine.preemption import Preempted
from slimclr.engine.resume import checkpoint_to_resume, load_weights, read_checkpoint
from slimclr.engine.run_folder import identity
from slimclr.errors import UserError
from slimclr.files import sha256
from tests.helpers.kill_group import kill_group
from tests.helpers.small_run import METHODS, trainer


def left(run):
    """Records without speeds, weights, and the optimiser's state."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in ("images_per_s", "data_wait", "memory_mb"):
            del line[key]
    momenta = [state["momentum_buffer"] for state in run.optimizer.state.values()]
    return lines, [*run.method.state_dict().values(), *momenta]


def assert_same(one, other):
    (lines, tensors), (other_lines, other_tensors) = left(one), left(other)
    assert lines == other_lines
    assert len(tensors) == len(other_tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, other_tensors, strict=True))


def stopping_at(step, number=signal.SIGTERM):
    def schedule(now):
        if now == step:
            os.kill(os.getpid(), number)
        return 0.05 / (1 + now)

    return schedule


@pytest.mark.parametrize(
    ("method", "backend", "stops"),
    [
        *((method, "torchvision", ((signal.SIGTERM, 0), (signal.SIGUSR1, 3))) for method in METHODS),
        ("mocov2", "dali", ((signal.SIGTERM, 2),)),
    ],
)
def test_asked_to_stop_at_any_step(images, tmp_path, method, backend, stops):
    # A record of two steps, one of them before the stop.
    options = {"method": method, "backend": backend, "accumulation": 2 if method == "mocov2" else 1, "log_every": 5}
    whole = trainer(images, tmp_path / "whole", schedule=stopping_at(-1), **options)
    whole.train()
    for number, step in stops:  # within an epoch
        folder = tmp_path / str(step)
        with pytest.raises(Preempted, match=f"{number.name}.*after step {step + 1} with a checkpoint in"):
            trainer(images, folder, schedule=stopping_at(step, number), **options).train()
        assert [path.name for path in list_checkpoints(folder)][-1] == f"step_{step + 1:08d}.pt"
        torch.manual_seed(99)  # its own states are in the checkpoint
        resumed = trainer(images, folder, schedule=stopping_at(-1), workers=1, **options)
        resumed.train()
        assert_same(resumed, whole)


def test_asked_to_stop_at_the_last_step_it_is_finished(images, tmp_path):
    trainer(images, tmp_path, epochs=1, schedule=stopping_at(1)).train()


def test_states_of_the_generators_are_restored(images, tmp_path):
    with pytest.raises(Preempted):
        trainer(images, tmp_path, schedule=stopping_at(0)).train()
    wanted = (torch.rand(3).tolist(), random.random())
    torch.manual_seed(1)
    random.seed(1)
    resumed = trainer(images, tmp_path)
    resumed._resume(Agreement(resumed.process))
    assert (torch.rand(3).tolist(), random.random()) == wanted


def test_the_one_before_a_damaged_one_is_gone_on_from(images, tmp_path, capsys):
    stopped = trainer(images, tmp_path / "stopped", schedule=stopping_at(4))
    with pytest.raises(Preempted):
        stopped.train()
    newest = list_checkpoints(tmp_path / "stopped")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    trainer(images, tmp_path / "stopped", schedule=lambda step: 0.05).train()
    told = capsys.readouterr()
    assert "step_00000005.pt: damaged" in told.err
    assert "going on after step 4 of 6" in told.out


def test_named_it_is_gone_on_from_and_what_came_later_is_set_aside(images, tmp_path, capsys):
    whole = trainer(images, tmp_path, schedule=stopping_at(-1))
    whole.keep_every_epochs = 1
    whole.train()
    again = trainer(images, tmp_path, schedule=stopping_at(2))
    again.resume = tmp_path / "epoch_00001.pt"
    with pytest.raises(Preempted, match="after step 3 with a checkpoint"):
        again.train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000002.pt", "step_00000003.pt"]
    aside = sorted(path.name for path in tmp_path.glob("*.superseded"))
    assert aside == ["step_00000004.pt.superseded", "step_00000006.pt.superseded"]
    capsys.readouterr()
    # By the same command as before: it does not go back again.
    same = trainer(images, tmp_path, schedule=stopping_at(4))
    same.resume = again.resume
    with pytest.raises(Preempted, match="after step 5"):
        same.train()
    assert "step_00000003.pt goes on from" in capsys.readouterr().out
    last = trainer(images, tmp_path, schedule=stopping_at(-1))
    last.train()
    assert "going on after step 5 of 6" in capsys.readouterr().out
    assert_same(last, whole)
    # What was set aside can be named, too.
    back = trainer(images, tmp_path, schedule=stopping_at(-1))
    back.resume = tmp_path / "step_00000004.pt.superseded"
    back.train()
    assert "going on after step 4 of 6" in capsys.readouterr().out
    assert_same(back, whole)


def test_a_damaged_one_of_the_named_ones_step_is_replaced(images, tmp_path, capsys):
    whole = trainer(images, tmp_path, epochs=2)
    whole.keep_every_epochs = 1
    whole.train()
    newest = list_checkpoints(tmp_path)[-1]
    content = newest.read_bytes()
    newest.unlink()  # a hard link
    newest.write_bytes(content[:-1])
    again = trainer(images, tmp_path)
    again.resume = tmp_path / "epoch_00002.pt"
    again._resume(Agreement(again.process))  # and nothing after it
    trainer(images, tmp_path).train()
    told = capsys.readouterr()
    assert told.out.count("going on after step 4 of") == 2
    assert "damaged" not in told.err


def test_named_and_killed_before_its_first_checkpoint_it_is_still_gone_on_from(images, tmp_path, capsys):
    whole = trainer(images, tmp_path)
    whole.keep_every_epochs = 1
    whole.train()
    again = trainer(images, tmp_path)
    again.resume = tmp_path / "epoch_00001.pt"
    again._resume(Agreement(again.process))  # and nothing after it
    capsys.readouterr()
    trainer(images, tmp_path).train()
    assert "going on after step 2 of 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimizer": {"lr": 0.1}}, r"is of another run \(optimizer.lr: 0.05 -> 0.1\); name one of this run"),
        ({"method": {"name": "simclr"}}, r'is of another run \(.*method.name: "mocov2" -> "simclr"'),
        ({"epochs": 2}, r"is of another run \(epochs: 3 -> 2, which may only grow\)"),
        ({"epochs": 4, "log_every": 7}, None),
        ("seed1", r'is of another run \(part: "seed0" -> "seed1"\)'),
        ("probe", r'is of another run \(stage: "pretrain" -> "probe"\)'),
        ("other images", r"is of another run \(train_images: a1 -> b2\)"),
        ("earliest version", "written by an earlier version"),
        ("earlier version", "written by an earlier version"),
        ("other shapes", r"does not fit what is trained \(.*size mismatch"),
    ],
)
def test_a_named_checkpoint_of_something_else_is_refused(images, tmp_path, changes, line):
    def of(stage="pretrain", part="seed0", images="a1", **changed):
        fixed = {"method": {"name": "mocov2", "queue": 64}, "batch": 32, "bn_batch": 16, "optimizer": {"lr": 0.05}}
        return identity(stage, Pretrain.model_validate(fixed | {"epochs": 3} | changed), part, {"train_images": images})

    first = trainer(images, tmp_path / "first", epochs=1)
    first.identity = of()
    first.train()
    (path,) = list_checkpoints(tmp_path / "first")
    other = trainer(images, tmp_path / "other", epochs=3)
    other.identity = of(**changes) if isinstance(changes, dict) else of()
    if changes == "seed1":
        other.identity = of(part="seed1")
    elif changes == "probe":
        other.identity = of(stage="probe")
    elif changes == "other images":
        other.identity = of(images="b2")
    elif changes in ("earliest version", "earlier version", "other shapes"):
        state = torch.load(path, weights_only=True)
        if changes == "earliest version":
            del state["identity"]
        elif changes == "earlier version":
            del state["identity"]["inputs"]
        else:
            weight = state["method"]["query_encoder.backbone.conv1.weight"]
            state["method"]["query_encoder.backbone.conv1.weight"] = weight[:1]
        writer = CheckpointManager(tmp_path / "first")
        writer.save(state)
        writer.wait()
    other.resume = path
    if line is None:
        other.train()
        return
    with pytest.raises(UserError, match=line) as error:
        other.train()
    assert str(error.value).startswith(f"{path}: ")
    assert list_checkpoints(tmp_path / "other") == []


def saved(folder, *steps, **content):
    manager = CheckpointManager(folder)
    for step in steps:
        manager.save({"step": step, **content})
    manager.wait()
    return manager


def test_the_newest_is_resumed_unless_another_is_named(tmp_path, capsys):
    manager = saved(tmp_path / "run", 1, 2)
    named = saved(tmp_path / "other", 5).newest()
    assert checkpoint_to_resume(saved(tmp_path / "empty"), None, name="toy") is None
    assert checkpoint_to_resume(manager, None, name="toy") == tmp_path / "run/step_00000002.pt"
    assert checkpoint_to_resume(manager, named, name="toy") == named
    missing = tmp_path / "none.pt"
    assert checkpoint_to_resume(manager, missing, name="toy") == missing  # reading it says so
    assert capsys.readouterr().out == ""
    newest = tmp_path / "run/step_00000003.pt"
    saved(tmp_path / "run", 3, origin=sha256(named))
    assert checkpoint_to_resume(manager, named, name="toy") == newest
    told = f"toy: {newest} goes on from {named} already; move it away to go back again\n"
    assert capsys.readouterr().out == told


def test_one_of_an_earlier_version_says_how_to_begin_anew(tmp_path):
    path = saved(tmp_path, 1).newest()
    with pytest.raises(UserError, match="cannot go on from; leave out --resume to begin anew, or use the version"):
        read_checkpoint(path, {}, anew="leave out --resume")


def test_an_optimiser_of_other_parameters_does_not_fit(tmp_path):
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)
    own, foreign = (torch.optim.SGD(module.parameters(), lr=0.1) for module in (model, other))
    ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"x.pt: does not fit what is trained \(.*parameter group.*other images\?"):
        load_weights(tmp_path / "x.pt", {"method": ones, "optimizer": foreign.state_dict()}, model, own)
    load_weights(tmp_path / "x.pt", {"method": ones, "optimizer": own.state_dict()}, model, own)
    assert model.weight.eq(1).all()


def work(images, folder):
    """In a process of its own group, as a job's are."""
    os.setsid()
    torch.set_num_threads(1)
    run = trainer(images, folder, epochs=20, workers=1, log_every=5)
    run.checkpoint_minutes = 1e-4
    run.train()


def test_killed_at_twenty_random_moments(images, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.small_run", "slimclr.engine.loop"])
    undisturbed = context.Process(target=work, args=(images, tmp_path / "whole"))
    start = time.monotonic()
    undisturbed.start()
    undisturbed.join()
    assert undisturbed.exitcode == 0
    seconds, generator = time.monotonic() - start, random.Random(0)
    for number in range(4):
        folder = tmp_path / f"killed{number}"
        for _ in range(5):
            process = context.Process(target=work, args=(images, folder))
            process.start()
            process.join(generator.uniform(0, 0.8) * seconds)
            if process.exitcode is None:
                kill_group(process)
            process.join()
        last = context.Process(target=work, args=(images, folder))
        last.start()
        last.join()
        assert last.exitcode == 0
        whole, killed = (
            torch.load(list_checkpoints(path)[-1], weights_only=True) for path in (tmp_path / "whole", folder)
        )
        assert killed["step"] == whole["step"] == 40
        for name, tensor in whole["method"].items():
            assert torch.equal(killed["method"][name], tensor), name
