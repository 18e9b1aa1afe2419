"""Runs test_detection.py, and what needs processes of its own, in .venvs/detection, which has mmdet but no pytest."""

import json
import os
import shutil
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path

import pytest

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

# Builds data and weights with the fixtures' own code, then trains as a stage would.
JOB = """
import json
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_detection import RECIPE, coco, weights
from slimclr.detection.transfer import run_transfer

class Factory:
    def mktemp(self, name):
        folder = Path({folder!r}) / name
        folder.mkdir(exist_ok=True)
        return folder

folder = Path({folder!r})
if sys.argv[1] == "prepare":
    coco.__wrapped__(Factory()), weights.__wrapped__(Factory())
else:
    widths = run_transfer(weights=folder / "weights/weights.safetensors", coco=folder / "coco",
                          inputs={{}}, checkpoints=folder / "work", **(RECIPE | {{"epochs": int(sys.argv[2])}}))
    if widths is not None:
        (folder / "metrics.json").write_text(json.dumps(widths))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("pytest")
    for name in PYTEST:
        file = Path(import_module(name).__file__)
        source = file.parent if file.stem == "__init__" else file
        (path / source.name).symlink_to(source)
    return os.environ | {"PYTHONPATH": f"{ROOT}:{path}", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def write_job(folder: Path) -> Path:
    path = folder / "job.py"
    path.write_text(JOB.format(tests=str(Path(__file__).parent), folder=str(folder)))
    return path


@pytest.fixture(scope="module")
def prepared(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and weights, made once: importing mmdet takes longer than making them."""
    folder = tmp_path_factory.mktemp("prepared")
    subprocess.run([VENV / "bin/python", write_job(folder), "prepare"], env=environment, check=True, cwd=folder)
    return folder


@pytest.fixture
def job(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return write_job(tmp_path)


def test_the_tests_that_need_mmdet(environment: dict[str, str], tmp_path: Path) -> None:
    command = [VENV / "bin/python", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-c", os.devnull]
    command += ["--rootdir", tmp_path, Path(__file__).with_name("test_detection.py")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def test_two_processes_train_one_model(job: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """The other widths' batch norms must get averaged gradients too: mmengine would not notice them drift apart."""
    check = tmp_path / "check.py"
    check.write_text(
        "import os, sys, torch\n"
        "from torch import distributed\n"
        "from slimclr.detection import transfer\n"
        "def same(runner, **_):\n"
        "    for name, tensor in runner.model.module.named_parameters():\n"
        "        both = [torch.empty_like(tensor) for _ in range(2)]\n"
        "        distributed.all_gather(both, tensor.detach())\n"
        "        assert torch.equal(*both), name\n"
        "    print('SAME')\n"
        "    return evaluate(runner, **_)\n"
        "evaluate, transfer.evaluate = transfer.evaluate, same\n"
        f"exec(open({str(job)!r}).read())\n"
        # Threads of the process group that outlive it abort the interpreter's end now and then.
        "names = [open(f'/proc/self/task/{task}/comm').read() for task in os.listdir('/proc/self/task')]\n"
        "assert not any('gloo' in name for name in names), names\n"
    )
    launch = [VENV / "bin/torchrun", "--standalone", "--nproc_per_node", "2", check, "train", "1"]
    done = subprocess.run(launch, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.count("SAME") == 2
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {"1.0", "0.5"}
    assert not (tmp_path / ".dist_test").exists()


def test_killed_run_continues(job: Path, environment: dict[str, str], tmp_path: Path) -> None:
    command = [VENV / "bin/python", job, "train", "20"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 400
        while not (tmp_path / "work/epoch_3.pth").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    saved = max(int(path.stem.removeprefix("epoch_")) for path in (tmp_path / "work").glob("epoch_*.pth"))
    assert 3 <= saved < 20
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    epochs = [
        json.loads(line)["epoch"]
        for path in sorted((tmp_path / "work").glob("*/vis_data/scalars.json"))[1:]
        for line in path.read_text().splitlines()
    ]
    # The newest file may have been cut short, then the one before it counts.
    assert (min(epochs) if epochs else 20) >= saved
    assert sorted(path.name for path in (tmp_path / "work").glob("epoch_*.pth")) == ["epoch_19.pth", "epoch_20.pth"]
    assert (tmp_path / "metrics.json").is_file()
