"""Snakemake with a real Slurm of two nodes on this machine: `make test-slurm`."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.made_once import made_once
from tests.helpers.small_recipe import RECIPE as SMALL

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [ROOT / ".venvs/dev/bin/python", ROOT / "tests/slurm/asking_often.py"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        "SLIMCLR_TEST_SLURM" not in os.environ, reason="needs a Slurm that root brings up: make test-slurm"
    ),
]
RECIPE = {
    "pretrain": SMALL | {"method": {"name": "mocov2", "dim": 16, "queue": 64}, "epochs": 12, "log_every": 5},
    "probe": {"epochs": 1, "batch": 32, "optimizer": {"lr": 1.0}, "image_size": 32, "resize": 36, "workers": 0},
}
# One CPU and no GPU per node.
RESOURCES = [
    *(
        f"{rule}:{key}"
        for rule in ("extract_train", "extract_val", "convert")
        for key in ("cpus_per_task=1", "mem_mb=2000")
    ),
    *(
        f"{rule}:{key}"
        for rule in ("pretrain", "probe", "quick_probe")
        for key in ("gpu=0", "cpus_per_task=1", "mem_mb=3000")
    ),
    *(f"measure_latency:{key}" for key in ("cpus_per_task=1", "mem_mb=3000")),
    *(f"transfer:{key}" for key in ("gpu=0", "cpus_per_task=1", "mem_mb=5000")),
]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A working folder whose data stages have run, on this machine: the demo's run in Slurm."""

    def make(folder):
        command = [*SNAKEMAKE, "data/imagenet/train.lmdb", "data/imagenet/val.lmdb", "--profile", ROOT / "local"]
        command += ["--snakefile", ROOT / "Snakefile", "--configfile", write_config(folder), "--cores", "2"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-5000:]

    return made_once(tmp_path_factory, "data", make)


def write_config(folder):
    """The config of a small recipe, in its working folder."""
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    (folder / "recipes/small.yaml").write_text(yaml.safe_dump(RECIPE))
    config = {
        "paths": {"raw": "raw", "work": "."},
        "miniature": {"seed": 1},
        "imagenet": {"expect": "subset"},
        "recipes": str(folder / "recipes"),
        "runs": ["small"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def begin(folder, *targets, resources=()):
    """Start Snakemake on the small recipe in Slurm."""
    # The cut-down time limit strikes more often than the profile's three retries allow for.
    return submit(folder, write_config(folder), *targets, "--retries", "15", resources=resources)


def submit(folder, config, *arguments, resources=()):
    command = [*SNAKEMAKE, *arguments, "--profile", ROOT / "slurm", "--snakefile", ROOT / "Snakefile"]
    command += ["--configfile", config, "--default-resources", "slurm_partition=test", "mem_mb=2000", "runtime=30"]
    command += ["--set-resources", *RESOURCES, *resources, "--latency-wait", "5"]
    command += ["--slurm-init-seconds-before-status-checks", "1"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, seconds):
    """What Snakemake said. One that takes too long is ended with its jobs, which would hold up the other tests."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        told = process.communicate()[0]
        pytest.fail(f"not finished after {seconds} s: {told[-5000:]}")


def wait_for(condition, process, seconds=400):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()[-5000:]
        assert time.monotonic() < until
        time.sleep(0.2)


def job(folder, shown="%i"):
    """Number of the job, or something else about it, that a working folder's Snakemake has in Slurm now."""
    told = subprocess.run(["squeue", "-h", "-o", f"%Z|{shown}"], capture_output=True, text=True).stdout
    (found,) = [line.partition("|")[2] for line in told.splitlines() if line.startswith(f"{folder}|")]
    return found


def lines(folder):
    files = list(folder.glob("checkpoints/pretrain/small/*/seed0/metrics.jsonl"))
    return files[0].read_text().count("\n") if files else 0


def asked(folder):
    signal = ["scancel", "--signal=USR1", job(folder)]
    subprocess.run(signal, check=True)


def node_down(folder):
    node = job(folder, "%N")
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=down", "Reason=test"], check=True)
    time.sleep(5)
    # Refused where the node has reported for duty by itself.
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=resume"], check=False)


def test_the_demo_runs_to_its_report(tmp_path):
    if not (ROOT / ".venvs/detection/installed.sha256").exists():
        pytest.skip("the demo's transfer needs .venvs/detection: make .venvs/detection")
    process = submit(tmp_path, ROOT / "config/demo.yaml", "all")
    told = finish(process, 2400)
    assert process.returncode == 0, told[-5000:]
    assert "Submitted job" in told or "SLURM" in told
    tables = (tmp_path / "demo/results/report/tables.csv").read_text()
    assert "demo_slimclr_simclr" in tables
    assert (tmp_path / "demo/results/report/index.html").is_file()


def terminated(folder):
    subprocess.run(["scancel", "--signal=TERM", job(folder)], check=True)


def cancelled(folder):
    subprocess.run(["scancel", job(folder)], check=True)


TWO = ["pretrain:nodes=2", "pretrain:tasks=2"]
LIMIT = ["pretrain:runtime=1", "pretrain:slurm_extra='--signal=USR1@25'"]


@pytest.mark.parametrize(
    ("resources", "epochs", "disturbances"),
    [
        (TWO, 12, [asked]),
        ([], 12, [terminated]),
        (TWO, 12, [terminated]),
        # The time limit strikes by itself, more than once.
        (LIMIT, 30, [cancelled, node_down]),
    ],
    ids=["asked, two nodes", "terminated", "terminated, two nodes", "cancelled, node down, time limit"],
)
def test_a_disturbed_run_is_continued_and_finished(data, tmp_path, monkeypatch, resources, epochs, disturbances):
    folder = tmp_path / "p"
    shutil.copytree(data, folder)
    monkeypatch.setitem(RECIPE["pretrain"], "epochs", epochs)
    process = begin(folder, "all", resources=resources)
    done = 0
    for disturb in disturbances:
        wait_for(lambda before=done: lines(folder) > before + 8, process)
        disturb(folder)
        done = lines(folder)
    told = finish(process, 1500)
    assert process.returncode == 0, told[-5000:]
    # Each attempt has a log of its own. Slurm itself begins a job again whose node was lost.
    assert told.count("rule pretrain:") >= (3 if resources == LIMIT else 2)
    assert "going on after step" in (folder / "logs/pretrain/small.log").read_text()
    assert (folder / "results/report/index.html").is_file()
    steps = json.loads((folder / "results/pretrain/small/metrics.json").read_text())["steps"]
    assert steps == 37 * epochs


def test_rules_run_in_apptainer(data, tmp_path):
    if not shutil.which("apptainer"):
        pytest.skip("apptainer is not on PATH")
    if not (ROOT / "containers/train.sif").exists():
        pytest.skip("containers/train.sif is not there: make sif")
    folder = tmp_path / "p"
    shutil.copytree(data, folder)
    process = begin(folder, "all", "--sdm", "apptainer")
    told = finish(process, 1500)
    assert process.returncode == 0, told[-5000:]
    for file in folder.glob("results/*/small/metrics.json"):
        assert json.loads(file.read_text())["provenance"]["command"].startswith("/opt/venv/bin/"), file
    assert (folder / "results/report/index.html").is_file()
