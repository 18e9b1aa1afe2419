"""envs/install.sh looks for CUDA's compiler before it builds; `uv` and `nvcc` are faked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def install(tmp_path):
    """Runs a copy of envs/install.sh for detection, with an older environment in place; also gives the calls of uv."""
    envs, called = tmp_path / "envs", tmp_path / "called"
    envs.mkdir()
    shutil.copy(ROOT / "envs/install.sh", envs)
    (envs / "detection.lock").write_text("torch==1\nonedl-mmcv==2\n")
    (tmp_path / ".venvs/detection").mkdir(parents=True)
    (tmp_path / ".venvs/detection/older").touch()
    for name, script in {
        "bin/uv": f'echo "${{FORCE_CUDA-unset}} ${{CUDA_VISIBLE_DEVICES-unset}} $*" >>{called}\n'
        f'case $1 in venv) mkdir -p {tmp_path}/.venvs/detection;; esac\n[ "$2" != install ] || cat >/dev/null',
        "cuda13/bin/nvcc": "echo 'Cuda compilation tools, release 13.0, V13.0.88'",
        "cuda12/bin/nvcc": "echo 'Cuda compilation tools, release 12.8, V12.8.61'",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(**environment):
        unset = {key: value for key, value in os.environ.items() if "CUDA" not in key}
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [envs / "install.sh", "detection"],
            env=unset | {"PATH": path, "SLIMCLR_WHEELS": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return done, called.read_text().splitlines() if called.exists() else []

    return run


@pytest.mark.parametrize("toolkit", ["cuda12", "gone"])
def test_no_compiler_for_gpus_is_one_line_and_leaves_the_environment(install, tmp_path, toolkit):
    done, called = install(FORCE_CUDA="1", CUDA_HOME=str(tmp_path / toolkit))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / toolkit}/bin/nvcc is not: load the CUDA 13 toolkit, or run 'FORCE_CUDA=0 make" in line
    assert called == []
    assert (tmp_path / ".venvs/detection/older").exists()


@pytest.mark.parametrize("found", ["home", "path"])
def test_a_compiler_for_gpus_is_found(install, tmp_path, found):
    folder = tmp_path / "cuda13"
    place = {"CUDA_HOME": str(folder)}
    if found == "path":
        place = {"PATH": f"{tmp_path}/bin:{folder}/bin:{os.environ['PATH']}"}
    done, called = install(FORCE_CUDA="1", **place)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("1 unset ") for line in called)
    (build,) = [line for line in called if "--no-build-isolation-package onedl-mmcv" in line]
    assert "--config-settings-package onedl-mmcv:" in build  # else uv takes an earlier build for the CPU from its cache


def test_operators_for_the_cpu_only_need_no_compiler_for_gpus(install, tmp_path):
    done, called = install(FORCE_CUDA="0", CUDA_HOME=str(tmp_path / "gone"))
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("0  ") for line in called)  # and torch must see no GPU, as mmcv's build asks it, too
