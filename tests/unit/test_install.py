"""envs/install.sh looks for CUDA's compiler before it builds; `uv` and `nvcc` are faked."""

import os
import re
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
    (envs / "detection.lock").write_text("onedl-mmcv==2\npackaging==3\ntorch==1\n")
    operators = tmp_path / "slimclr/detection/operators.py"
    operators.parent.mkdir(parents=True)
    shutil.copy(ROOT / "slimclr/detection/operators.py", operators)
    packages = tmp_path / ".venvs/detection/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / ".venvs/detection/older").touch()
    for name, script in {
        "bin/uv": f'echo "${{FORCE_CUDA-unset}} ${{CUDA_VISIBLE_DEVICES-unset}} $*" >>{called}\n'
        f"case $1 in venv) mkdir -p {packages}/mmcv;; esac\n"
        f'case "$*" in *dev/stdin*) sed "s/^/  /" >>{called};; esac',
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
            env=unset | {"PATH": path} | environment,
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
    assert f"{tmp_path / toolkit}/bin/nvcc is not: load the CUDA 13 toolkit, or run 'make .venvs/detection'" in line
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
    (build,) = [line for line in called if "--no-build-isolation-package onedl-mmcv" in line]
    assert build.startswith("1 unset ")
    assert "onedl-mmcv:operators=gpu" in build  # else uv takes an earlier build without operators from its cache
    assert called.index("  torch==1") < called.index(build)
    assert not any("onedl" in line for line in called if line.startswith("  "))
    assert not list(tmp_path.rglob("_ext.py"))


def test_an_environment_that_was_moved_is_made_again(install, tmp_path):
    assert install()[0].returncode == 0
    calls = len(install()[1])
    assert calls > 0
    assert len(install()[1]) == calls  # it is there
    place = tmp_path / ".venvs/detection/place"
    place.unlink()
    place.symlink_to(tmp_path / "where/it/was")
    done, called = install()
    assert done.returncode == 0, done.stderr
    assert len(called) > calls
    assert place.resolve() == (tmp_path / ".venvs/detection").resolve()


def test_uv_is_one_version_with_its_hashes(tmp_path):
    """Where no uv is on PATH; `python3 -m venv` is faked and makes a python that writes down what it is asked."""
    (tmp_path / "envs").mkdir()
    for name in ("install.sh", "uv.lock", "recordio.lock"):
        shutil.copy(ROOT / "envs" / name, tmp_path / "envs")
    fake, made = tmp_path / "bin/python3", tmp_path / ".venvs/uv/bin"
    fake.parent.mkdir()
    fake.write_text(
        f"#!/bin/sh\nmkdir -p {made}\n"
        f"printf '#!/bin/sh\\necho \"$@\" >>{tmp_path}/asked\n' >{made}/python\n"
        f"printf '#!/bin/sh\\nmkdir -p {tmp_path}/.venvs/recordio\n' >{made}/uv\n"
        f"chmod 755 {made}/*\n"
    )
    fake.chmod(0o755)
    path = ":".join([str(fake.parent), *(p for p in os.environ["PATH"].split(":") if not (Path(p) / "uv").exists())])
    for _ in range(2):
        command = [tmp_path / "envs/install.sh", "recordio"]
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (tmp_path / ".venvs/recordio/installed.sha256").unlink()
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--require-hashes" in asked
    assert asked.endswith("-r envs/uv.lock")
    lock = (tmp_path / "envs/uv.lock").read_text()
    assert len(re.findall(r"^[a-z].*==[0-9.]+ ", lock, re.MULTILINE)) == 1
    assert "--hash=sha256:" in lock


def test_nothing_is_compiled_and_torchvisions_operators_serve(install, tmp_path):
    """mmcv's build compiles where it finds torch, so mmcv comes before torch."""
    done, called = install(CUDA_HOME=str(tmp_path / "gone"))
    assert done.returncode == 0, done.stderr
    rows = [line for line in called if line.startswith("  ")]
    assert rows == ["  packaging==3", "  onedl-mmcv==2", "  packaging==3", "  torch==1"]
    assert all("onedl-mmcv:operators=none" in line for line in called if "onedl-mmcv" in line and line not in rows)
    (placed,) = (tmp_path / ".venvs").rglob("mmcv/_ext.py")
    assert placed.read_bytes() == (ROOT / "slimclr/detection/operators.py").read_bytes()
