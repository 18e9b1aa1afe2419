"""Runs test_detection.py, and what needs processes of its own, in .venvs/detection, which has mmdet but no pytest."""

import json
import os
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from slimclr.engine.distributed import TORCHRUN_OPTIONS
from tests.helpers.small_detection import SHORT

ROOT = Path(__file__).parents[3]
VENV = ROOT / ".venvs/detection"
# Of pure Python, so this environment's copies serve the other one.
PYTEST = ("_pytest", "pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (VENV / "installed.sha256").exists(), reason=f"{VENV} is not installed; `make` installs it on demand"
    ),
]

# Builds data and weights with the fixtures' own code.
PREPARE = """
from pathlib import Path
from tests.unit.detection.conftest import coco, weights

class Factory:
    def mktemp(self, name):
        folder = Path({folder!r}) / name
        folder.mkdir()
        return folder

coco.__wrapped__(Factory()), weights.__wrapped__(Factory())
"""
RECIPE = SHORT | {"batch": 4, "warmup_iterations": 2, "workers": 0}
# Signals reach the processes as on GPUs.
LAUNCH = """
import os, sys
from slimclr.engine.distributed import _run
sys.exit(_run(sys.argv[1:], os.environ))
"""
# What `slimclr transfer` of two processes runs, with a look at them before it evaluates.
CHECK = """
import os, sys, torch
from torch import distributed
from slimclr.cli import main
from slimclr.detection import transfer

def same(runner, **arguments):
    for name, tensor in runner.model.module.named_parameters():
        both = [torch.empty_like(tensor) for _ in range(2)]
        distributed.all_gather(both, tensor.detach())
        assert torch.equal(*both), name
    print("SAME")
    return evaluate(runner, **arguments)

evaluate, transfer.evaluate = transfer.evaluate, same
code = main(sys.argv[1:])
# Threads of the process group that outlive it abort the interpreter's end now and then.
names = []
for task in os.listdir("/proc/self/task"):
    try:
        names.append(open(f"/proc/self/task/{task}/comm").read())
    except FileNotFoundError:  # it has ended meanwhile
        pass
assert not any("gloo" in name for name in names), names
sys.exit(code)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "pytest"
    path.mkdir()
    for name in PYTEST:
        file = Path(import_module(name).__file__)
        source = file.parent if file.stem == "__init__" else file
        (path / source.name).symlink_to(source)
    return os.environ | {"PYTHONPATH": f"{ROOT}:{path}", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def job(tmp_path: Path, environment: dict[str, str]) -> list[str]:
    """The command line that trains with two processes, but for where results and checkpoints go."""
    command = [str(VENV / "bin/python"), "-c", PREPARE.format(folder=str(tmp_path))]
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    (tmp_path / "check.py").write_text(CHECK)
    (tmp_path / "launch.py").write_text(LAUNCH)
    torchrun = [str(VENV / "bin/torchrun"), "--standalone", "--nproc-per-node=2", *TORCHRUN_OPTIONS]
    torchrun += [str(tmp_path / "check.py")]
    inputs = ["--weights", str(tmp_path / "weights/weights.safetensors"), "--coco", str(tmp_path / "coco")]
    transfer = ["transfer", "--name", "x", "--recipe", json.dumps(RECIPE), *inputs]
    return [str(VENV / "bin/python"), str(tmp_path / "launch.py"), *torchrun, *transfer]


FILES = ["test_detection.py", "test_detectors.py", "test_stops.py", "test_mmdets_own.py", "test_options.py"]


@pytest.mark.parametrize("file", FILES)
def test_the_tests_that_need_mmdet(environment: dict[str, str], tmp_path: Path, file: str) -> None:
    command = [VENV / "bin/python", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-c", os.devnull]
    command += ["--rootdir", tmp_path, Path(__file__).with_name(file)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_quick_run_of_the_benchmark(environment: dict[str, str]) -> None:
    command = [VENV / "bin/python", "-W", "ignore", "-m", "benchmarks.bench_transfer", "--quick"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["joint_over_separate"] > 0
    assert result["joint_over_stock"] > 0


def test_two_processes_train_one_model(job: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """The other widths' batch norms must get averaged gradients too: mmengine would not notice them drift apart.

    A run that is stopped and continued gives the same.
    """

    def start(name: str) -> subprocess.Popen:
        out = ["--out", str(tmp_path / name / "metrics.json"), "--checkpoints", str(tmp_path / name / "work")]
        options: dict = {"env": environment, "cwd": tmp_path, "text": True}
        return subprocess.Popen([*job, *out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def end(process: subprocess.Popen, code: int) -> str:
        out, errors = process.communicate()
        assert process.returncode == code, errors[-5000:]
        return out + errors

    assert end(start("whole"), 0).count("SAME") == 2
    stopped = start("stopped")
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("stopped/work/*/*/step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    assert "transfer x: asked to stop (SIGTERM) and stopped after step" in end(stopped, 75)
    assert "transfer x: going on after step" in end(start("stopped"), 0)
    results = [json.loads((tmp_path / name / "metrics.json").read_text())["widths"] for name in ("whole", "stopped")]
    assert results[0] == results[1]
    assert set(results[0]) == {"1.0", "0.5"}
    last = [
        torch.load(next(tmp_path.glob(f"{name}/work/*/*/step_00000012.pt")), weights_only=True)
        for name in ("whole", "stopped")
    ]
    for part in ("method", "schedulers"):
        torch.testing.assert_close(last[0][part], last[1][part], rtol=0, atol=0)
    torch.testing.assert_close(last[0]["optimizer"]["state"], last[1]["optimizer"]["state"], rtol=0, atol=0)
    # Nothing that was pickled, in a folder that others may write to.
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob(".dist_test"))
