"""Quick probes on two processes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from slimclr.engine.distributed import Process
from slimclr.engine.preemption import StopRequest
from tests.helpers.quick_job import figures

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def test_two_processes_share_the_blocks_and_end_together(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.helpers.quick_job", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2))
    assert first.pop("fault") == "quick: stopped, as another process cannot go on; see its error"
    assert second.pop("fault") == "mine"
    for found, why in ((first, "another process was"), (second, "SIGTERM")):
        assert found.pop("stop").startswith(f"quick: asked to stop ({why}); what is done stays in {tmp_path}/features;")
    assert first == second
    # Whole instead of in blocks, and alone.
    alone = figures(tmp_path / "alone", Process(0, 1, torch.device("cpu")), StopRequest(), block=90)
    assert first.pop("ridge_alpha") == pytest.approx(alone.pop("ridge_alpha"), rel=1e-9)
    assert first == alone
