"""Two gloo processes with batch n each equal one process with batch 2n: loss, gradients, weights, queue."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.equality_job import CASES, run

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.helpers.equality_job", folder],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(two, name):
    got = torch.load(two / f"{name}.pt", weights_only=True)
    expected = run(name)
    assert got.keys() == expected.keys()
    for step in (0, 1):
        assert f"{step}/loss" in got
    for key, tensor in expected.items():
        # Some gradients are zero but for rounding: a bias before a batch norm.
        error = (got[key] - tensor).abs().max().item()
        assert error <= 1e-9 * tensor.abs().max().item() + 1e-13, (key, error)


def test_the_references_gradient_scale_halves_the_gradient(two):
    plain, scaled = (torch.load(two / f"{name}.pt", weights_only=True) for name in ("simclr", "simclr_reference"))
    assert plain["0/loss"] == scaled["0/loss"]
    names = [key for key in plain if key.startswith("0/gradient/")]
    assert names
    for key in names:
        torch.testing.assert_close(scaled[key], plain[key] / 2, rtol=1e-9, atol=1e-13)
