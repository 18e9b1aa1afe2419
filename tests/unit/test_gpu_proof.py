"""`make gpu-proof` runs to its end on a CPU, without anything but torch, and no part takes the others with it."""

import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_proof, proof_parts
from benchmarks.method_steps import method_of, our_step, plain_step
from slimclr.nn import SlimmableResNet
from tests.unit.build.test_gpu_memory import ROW

REPOSITORY = Path(__file__).parents[2]
# What a bare machine with a GPU may lack.
ABSENT = [
    "yaml",
    "rich",
    "tensorboard",
    "lmdb",
    "nvidia.dali",
    "mmdet",
    "pytest",
    "pyarrow",
    "psutil",
    "pandas",
    "scipy",
]
BARE = f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
MEASURED = ("machine", "steps_mocov2", "steps_mocov3", "steps_simclr", "training", "memory", "frozen", "profile")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="what is expected is a CPU's")
def test_it_runs_to_the_end_without_packages_beside_torch(tmp_path):
    code = BARE + "runpy.run_module('benchmarks.gpu_proof', run_name='__main__')"
    command = [sys.executable, "-c", code, "--quick", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert set(parts) == set(gpu_proof.LIMITS)
    assert {name: parts[name]["state"].partition(";")[0] for name in MEASURED} == dict.fromkeys(MEASURED, "done")
    assert {name for name, part in parts.items() if part["state"].startswith("skipped: ")} == set(parts) - {*MEASURED}
    assert "PyYAML" in parts["data"]["state"]
    assert parts["training"]["result"]["resume_bf16"]["resume_exact"] is True
    assert parts["training"]["result"]["not_finite_bf16"]["weights_finite"] is True
    assert parts["memory"]["result"]["rows"] == [], "no figure of a GPU where there is none"
    row = parts["memory"]["result"]["mocov2_bf16_recomputed"]
    assert set(row) == set(ROW) - {"batches", "gb"}, "what `slimclr recipe` reads"
    assert "| steps_simclr |" in (tmp_path / "summary.md").read_text()
    assert "conv" in (tmp_path / "profile.txt").read_text()


def test_the_data_part_says_how_many_cores_a_gpu_needs(tmp_path):
    (tmp_path / "steps_simclr.json").write_text(json.dumps({"ours_bf16": {"images_per_s": 1000.0}}))
    (tmp_path / "logs").mkdir()
    assert gpu_proof.run_part("data", tmp_path, 100.0, quick=True)["state"] == "done"
    told = json.loads((tmp_path / "data.json").read_text())
    rates = told["loaders"]["photos_per_second"]
    assert set(rates) >= {"pil", "tensor"}
    for path, rate in rates.items():
        assert told["cores_of_a_gpu"]["simclr_bf16"][path] == pytest.approx(1000 / rate, abs=1)


def test_a_part_that_fails_or_hangs_leaves_what_it_had_and_the_others(tmp_path, monkeypatch, capsys):
    def fails(report):
        report.put("first", 1)
        raise ValueError("this one breaks")

    def hangs(report):
        report.put("first", 2)
        time.sleep(600)

    def left_out(report):
        report.measure("wrong", lambda: 1 / 0)
        report.measure("late", lambda: 3, needs=1e6)

    monkeypatch.setattr(proof_parts, "PARTS", {"machine": fails, "tests": hangs, "memory": left_out})
    monkeypatch.setattr(gpu_proof, "_GRACE", 0.5)
    monkeypatch.setattr(gpu_proof, "LIMITS", {"machine": 5, "tests": 3, "memory": 5, "frozen": 5})
    monkeypatch.setattr(
        sys, "argv", ["gpu_proof", "--out", str(tmp_path), "--minutes", "0.2", "--parts", *gpu_proof.LIMITS]
    )
    monkeypatch.setattr(gpu_proof.signal, "signal", lambda *_: None)
    assert gpu_proof.main() == 1
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert parts["machine"]["state"] == "failed: ValueError: this one breaks"
    assert parts["tests"]["state"] == "cut off after 3 s"
    assert [parts[name]["result"] for name in ("machine", "tests")] == [{"first": 1}, {"first": 2}]
    assert parts["memory"]["state"] == "failed: wrong; not measured: late"
    assert parts["frozen"]["state"].startswith("failed: KeyError")
    assert "machine: failed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mocov3", "simclr"])
def test_the_plain_step_is_the_same_step(name):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
        one = method_of(name, SlimmableResNet(14, 8, (1.0, 0.5)), hidden=32)
        other = copy.deepcopy(one)
        steps = [
            make(name, method, views, torch.device("cpu"), "fp32")
            for make, method in ((our_step, one), (plain_step, other))
        ]
        for _ in range(3):
            for step in steps:
                step()
    finally:
        torch.set_default_dtype(before)
    plain = dict(other.trainable().named_parameters())
    for key, parameter in one.trainable().named_parameters():
        torch.testing.assert_close(parameter, plain[key], rtol=1e-9, atol=1e-12)
