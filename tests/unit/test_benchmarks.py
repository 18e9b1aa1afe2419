"""The benchmarks of the data stages still run and print JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "entry"), [("bench_extract.py", "extract_cached"), ("bench_lmdb.py", "sequential_and_random_warm")]
)
def test_quick_run(tmp_path, name, entry):
    command = [sys.executable, BENCHMARKS / name, "--quick", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[entry]["ratio"] > 0
    assert list(tmp_path.iterdir()) == []
