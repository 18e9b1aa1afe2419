"""The folder of a run: one recipe, one process."""

import json
import subprocess
import sys
import textwrap

import pytest

from slimclr import lock
from slimclr.config import Pretrain, dump
from slimclr.engine.checkpoints import CheckpointManager
from slimclr.engine.run_folder import finish, folder_of, identity, open_folder, refuse_other
from slimclr.errors import UserError

RECIPE = {
    "method": {"name": "mocov2", "queue": 64},
    "epochs": 2,
    "batch": 32,
    "bn_batch": 16,
    "optimizer": {"lr": 0.05},
}


def recipe(**changes):
    return Pretrain.model_validate(RECIPE | changes)


INPUTS = {"train_images": "a" * 64}


def begun(base, which, inputs=INPUTS):
    with open_folder(base, which, part="seed0", inputs=inputs, main=True) as folder:
        writer = CheckpointManager(folder)
        writer.save({"step": 1})
        writer.wait()
    return folder


def test_another_recipe_is_refused_with_the_difference(tmp_path):
    folder = begun(tmp_path, recipe())
    changed = recipe(optimizer={"lr": 0.1}, epochs=3)
    with pytest.raises(UserError, match=r"unfinished run of another recipe \(optimizer.lr: 0.05 -> 0.1\)") as error:
        begun(tmp_path, changed)
    assert str(folder) in str(error.value)
    finish(folder, recipe(), INPUTS)
    assert begun(tmp_path, changed) != folder  # a finished run is not in the way


def test_epochs_may_grow_and_logging_may_change(tmp_path):
    folder = begun(tmp_path, recipe())
    assert begun(tmp_path, recipe(epochs=3, log_every=1, workers=0)) == folder
    with pytest.raises(UserError, match="trained for 3 epochs, now epochs is 2"):
        begun(tmp_path, recipe())


def test_the_monitor_may_change(tmp_path):
    first = recipe(knn={"every": 5})
    folder = begun(tmp_path, first)
    changed = recipe(knn={"every": 1, "bank": 500})
    assert begun(tmp_path, changed) == folder
    refuse_other(folder, identity("pretrain", first, "seed0", INPUTS), identity("pretrain", changed, "seed0", INPUTS))


def test_other_data_is_refused_until_the_run_is_finished(tmp_path):
    folder, other = begun(tmp_path, recipe()), {"train_images": "b" * 64}
    line = rf"unfinished run of other data \(train_images: {'a' * 12} -> {'b' * 12}\); put back what changed"
    with pytest.raises(UserError, match=line) as error:
        begun(tmp_path, recipe(), other)
    assert str(folder) in str(error.value)
    both = r"another recipe and other data \(optimizer.lr: 0.05 -> 0.1, train_images: "
    with pytest.raises(UserError, match=both):
        begun(tmp_path, recipe(optimizer={"lr": 0.1}), other)
    finish(folder, recipe(), INPUTS)
    assert begun(tmp_path, recipe(), other) != folder


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_of_an_earlier_version_is_not_gone_on_with(tmp_path, capsys, finished):
    folder = begun(tmp_path, recipe())
    earlier = folder.parent.rename(tmp_path / "earlier") / folder.name
    (earlier / "run.json").write_text(json.dumps({"recipe": dump(recipe()), "finished": finished}))
    if finished:
        assert begun(tmp_path, recipe()) != earlier
        line = "of an earlier version, which did not note what it was trained on; not used, training begins anew"
        assert capsys.readouterr().err == f"{earlier}: {line}\n"
        return
    with pytest.raises(UserError, match="holds the unfinished run of an earlier version, which did not note"):
        begun(tmp_path, recipe())


def test_another_seed_is_another_run(tmp_path):
    begun(tmp_path, recipe())
    assert folder_of(tmp_path, recipe(), "seed1", INPUTS) != folder_of(tmp_path, recipe(), "seed0", INPUTS)


def test_the_same_run_twice_is_refused_and_a_crash_leaves_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.2)
    folder = folder_of(tmp_path, recipe(), "seed0", INPUTS)
    holder = textwrap.dedent(f"""
        import fcntl, os, signal
        os.makedirs({str(folder)!r})
        file = open({str(folder / "lock")!r}, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        signal.pause()
    """)
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="the same run is being trained by another process"):
            begun(tmp_path, recipe())
        other.kill()
    assert begun(tmp_path, recipe()) == folder
