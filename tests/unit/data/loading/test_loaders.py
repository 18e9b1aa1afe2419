"""Loaders: which images come, in which order, and going on in the middle of an epoch."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimclr.data.loading.loaders import training_loader, validation_loader
from slimclr.data.loading.samplers import TrainingSampler, ValidationSampler
from slimclr.data.stores import open_images
from slimclr.errors import UserError

BACKENDS = ["torchvision", "torchvision_tensor", "dali"]
COUNT = 23  # not a multiple of any batch below


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of one image per class, so that a label tells which image it is."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(COUNT):
        (folder / f"n{number:08d}").mkdir()
        noise = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)).resize((60, 50))
        noise.save(folder / f"n{number:08d}" / "image.JPEG")
    return open_images(folder)


def training(images, backend, *, workers=0, rank=0, world_size=1, recipe="mocov2"):
    return training_loader(
        images,
        recipe,
        image_size=32,
        total_batch=8,
        batch=8 // world_size,
        seed=3,
        workers=workers,
        rank=rank,
        world_size=world_size,
        backend=backend,
    )


def labels(loader):
    return [batch.tolist() for _, batch in loader]


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_shows_every_image_at_most_once_an_epoch(world_size):
    samplers = [TrainingSampler(COUNT, 8, 8 // world_size, 3, rank, world_size) for rank in range(world_size)]
    for epoch in (0, 1):
        seen = np.concatenate([batch for sampler in samplers for batch in sampler.batches(epoch)])
        assert len(seen) == len(set(seen.tolist())) == 16  # the incomplete last batch is dropped
    assert not np.array_equal(samplers[0].batches(0)[0], samplers[0].batches(1)[0])
    assert np.array_equal(
        samplers[0].batches(0)[0], TrainingSampler(COUNT, 8, 8 // world_size, 3, 0, world_size).batches(0)[0]
    )


def test_two_processes_see_what_one_would():
    whole = TrainingSampler(COUNT, 8, 8, 3).batches(0)
    halves = [TrainingSampler(COUNT, 8, 4, 3, rank, 2).batches(0) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(np.concatenate([half[step] for half in halves]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_shows_every_image_exactly_once(world_size):
    seen = [
        index
        for rank in range(world_size)
        for batch in ValidationSampler(tuple(range(COUNT)), 4, rank, world_size).batches(0)
        for index in batch
    ]
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loader_goes_on_where_it_stopped(images, backend, workers, world_size):
    for rank in range(world_size):
        undisturbed = training(images, backend, workers=workers, rank=rank, world_size=world_size)
        whole = list(undisturbed) + list(undisturbed)  # two epochs
        assert undisturbed.state_dict() == {"epoch": 2, "batch": 0}
        for stop in range(4):
            stopped = training(images, backend, workers=0, rank=rank, world_size=world_size)
            taken = []
            while len(taken) < stop:
                for batch in stopped:
                    taken.append(batch)
                    if len(taken) == stop:
                        break
            state = stopped.state_dict()
            resumed = training(images, backend, workers=workers, rank=rank, world_size=world_size)
            resumed.load_state_dict(state)
            while resumed.epoch < 2:
                taken += list(resumed)
            assert len(taken) == len(whole) == 4
            for (views, label), (expected, expected_label) in zip(taken, whole, strict=True):
                assert torch.equal(label, expected_label)
                assert all(torch.equal(*pair) for pair in zip(views, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_validation_loaders_agree(images, backend):
    def load(kind, workers, rank, world_size):
        return validation_loader(
            images, resize=40, image_size=32, batch=4, workers=workers, rank=rank, world_size=world_size, backend=kind
        )

    plain = {
        label: view
        for (view,), batch in load("torchvision", 0, 0, 1)
        for label, view in zip(batch.tolist(), view, strict=True)
    }
    for workers in (0, 2):
        got = {}
        for rank in range(2):
            for (view,), batch in load(backend, workers, rank, 2):
                got |= dict(zip(batch.tolist(), view, strict=True))
        assert got.keys() == plain.keys() == set(range(COUNT))
        for label, view in got.items():
            assert (view - plain[label]).abs().mean() < 2 / 255 / 0.224


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loader_gives_normalised_views_of_the_recipe(images, backend):
    views, batch = next(iter(training(images, backend, recipe="mocov3")))
    assert [tuple(view.shape) for view in views] == [(8, 3, 32, 32)] * 2
    assert all(view.dtype == torch.float32 for view in views)
    assert batch.dtype == torch.int64
    assert all(-2.2 < view.min() < view.max() < 2.7 for view in views)
    assert not torch.equal(*views)
    own = next(iter(training_loader(images, "mocov2_diff", image_size=32, widths=3, total_batch=8, batch=8, seed=0,
                                    workers=0, backend=backend)))[0]  # fmt: skip
    assert len(own) == 4


def test_a_batch_larger_than_the_data_is_refused(images):
    with pytest.raises(UserError, match="batch 64 is more than the 23 training images"):
        training_loader(images, "mocov2", image_size=32, total_batch=64, batch=64, seed=0, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unreadable_image_is_named(tmp_path, backend, workers):
    (tmp_path / "n00000001").mkdir()
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "JPEG")
    for number in range(4):
        (tmp_path / f"n00000001/{number}.JPEG").write_bytes(file.getvalue() if number != 2 else b"not an image")
    loader = training_loader(
        open_images(tmp_path), "mocov2", image_size=32, total_batch=4, batch=4, seed=0, workers=workers, backend=backend
    )
    with pytest.raises(UserError, match=r"n00000001/2\.JPEG: not a readable image") as caught:
        list(loader)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dalis_readers_outlive_slurms_signals_but_not_the_training(images, method):
    loader = training_loader(images, "mocov2", image_size=32, total_batch=4, batch=4, seed=0, workers=0, backend="dali")
    expected = [[views[0].double().sum().item(), *labels.tolist()] for _ in range(2) for views, labels in loader]
    command = [sys.executable, "-m", "tests.helpers.dali_readers_job", images.root, method]
    with subprocess.Popen(command, cwd=Path(__file__).parents[4], stdout=subprocess.PIPE, text=True) as job:
        told = json.loads(job.stdout.readline())
        job.kill()
    assert told["sums"] == expected
    assert len(told["readers"]) == 2
    until = time.monotonic() + 10
    while any(Path(f"/proc/{reader}").exists() for reader in told["readers"]):
        assert time.monotonic() < until
        time.sleep(0.1)
