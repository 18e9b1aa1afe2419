"""How rules are started in containers, with a make-believe apptainer that writes down what it was given.

The real one runs the demo in tests/containers/run.sh.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slimclr.machine import gpu_count

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
APPTAINER = """#!/bin/sh
[ "$1" = --version ] && echo "apptainer version 1.4.5" && exit
env >{out}/environment
for word in "$@"; do echo "$word"; done >{out}/words
exit 1
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Folder, and words and environment that apptainer gets there for the first rule of the miniature."""
    tmp_path = tmp_path_factory.mktemp("started")
    repository, work = tmp_path / "repository", tmp_path / "elsewhere/work"
    for name in ("workflow", "containers", "config", "envs"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("*.sif"))
    shutil.copy(ROOT / "Snakefile", repository)
    # Not recordio.sif: no job needs it.
    for name in ("train", "detection"):
        (repository / f"containers/{name}.sif").touch()
    (tmp_path / "disk").mkdir()
    (tmp_path / "raw").symlink_to(tmp_path / "disk")
    # links one level down: a part of COCO, a data set
    for name, link in (("photos", "disk/coco/train2017"), ("images", "elsewhere/work/data/imagenet")):
        (tmp_path / name).mkdir()
        (tmp_path / link).parent.mkdir(parents=True)
        (tmp_path / link).symlink_to(tmp_path / name)
    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    config["paths"] = {"raw": str(tmp_path / "raw"), "work": str(work)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    program = tmp_path / "bin/apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER.format(out=tmp_path))
    program.chmod(0o755)

    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": os.environ["HOME"],
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"APPTAINER_BIND": "/of/mine", "NCCL_DEBUG": "INFO", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "77"}
    command = [SNAKEMAKE, str(tmp_path / "raw/ILSVRC2012_img_val.tar"), "--snakefile", str(repository / "Snakefile")]
    command += ["--profile", str(repository / "workflow/profiles/local"), "--sdm", "apptainer", "--cores", "2"]
    command += ["--configfile", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (tmp_path / "words").exists(), done.stdout + done.stderr
    lines = (tmp_path / "environment").read_text().splitlines()
    words = (tmp_path / "words").read_text().splitlines()
    return tmp_path, words, dict(line.split("=", 1) for line in lines if "=" in line)


def test_a_rule_in_a_container(started):
    folder, words, environment = started
    assert "exec" in words
    assert "--cleanenv" in words
    assert str(folder / "repository/containers/train.sif") in words
    # the job's threads, not those of the user's shell
    assert words[words.index("--env") + 1] == "OMP_NUM_THREADS=1"
    # the command of the image, not of a virtual environment
    assert 'train_env() { "$@"; }' in " ".join(words)
    assert ("APPTAINER_NV" in environment) == bool(gpu_count())


def test_an_image_that_a_job_needs_and_is_missing_is_named(started):
    folder, *_ = started
    repository = folder / "repository"
    command = [SNAKEMAKE, "recordio", "--dry-run", "--snakefile", str(repository / "Snakefile"), "--sdm", "apptainer"]
    command += ["--profile", str(repository / "workflow/profiles/local"), "--configfile", str(folder / "config.yaml")]
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    line = f"recordio: {repository}/containers/recordio.sif does not exist; put the image there, name another one"
    assert line in done.stdout + done.stderr


def test_what_a_container_sees_of_the_machine(started):
    folder, _, environment = started
    binds = environment["APPTAINER_BIND"].split(",")
    assert binds[0] == "/of/mine"
    # the link and what it leads to, the working folder, what lies elsewhere, the repository
    names = ("raw", "disk", "elsewhere/work", "photos", "images", "repository")
    wanted = {folder / name for name in names}
    assert {str(path) for path in wanted} <= set(binds)
    assert "/" not in binds
    assert environment["APPTAINERENV_NCCL_DEBUG"] == "INFO"
    assert "APPTAINERENV_PIP_NO_INDEX" not in environment
    assert environment["APPTAINERENV_XDG_CACHE_HOME"].startswith(str(folder))
