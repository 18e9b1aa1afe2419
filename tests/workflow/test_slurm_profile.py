"""What jobs ask a Slurm cluster for: dry runs, and a make-believe sbatch that writes down what it was given."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs.resources import TABLE, planned, table

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
USER = "profiles/default/config.yaml"


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Jobs without a user file."""
    return planned(tmp_path_factory.mktemp("before"))


def user_file(folder, **changes):
    """The example as a user copies it, with further keys."""
    (folder / USER).parent.mkdir(parents=True)
    example = yaml.safe_load((ROOT / "workflow/profiles/user.example.yaml").read_text())
    (folder / USER).write_text(yaml.safe_dump(example | changes))


def test_the_example_gives_every_job_partition_and_account_and_keeps_the_rest(before, tmp_path):
    user_file(tmp_path)
    after = planned(tmp_path)
    assert len(after) == len(before) == 28
    mine = {"slurm_partition": "gpu", "slurm_account": "me"}
    assert after == [{**job, **mine} for job in before]


def test_the_user_file_changes_only_what_it_names(before, tmp_path):
    user_file(tmp_path, **{"set-resources": {"pretrain": {"runtime": 720}, "report": {"slurm_partition": "cpu"}}})
    for job, unchanged in zip(planned(tmp_path), before, strict=True):
        changed = {"slurm_partition": "gpu", "slurm_account": "me"}
        changed |= {"runtime": "720"} if job["rule"] == "pretrain" else {}
        changed |= {"slurm_partition": "cpu"} if job["rule"] == "report" else {}
        assert job == unchanged | changed


def test_the_user_file_is_ignored_by_git():
    ignored = subprocess.run(["git", "check-ignore", "-q", USER], cwd=ROOT)
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.returncode == 0


def test_the_command_line_changes_only_what_it_names(before, tmp_path):
    after = planned(tmp_path, "--set-resources", "pretrain:nodes=2")
    assert after == [job | ({"nodes": "2"} if job["rule"] == "pretrain" else {}) for job in before]


def test_every_run_gets_the_gpus_that_its_batch_was_published_with(before):
    from slimclr.config import load_config, load_recipes
    from slimclr.build.batch import plan_batch

    recipes = load_recipes(load_config(ROOT / "config/config.yaml"), ROOT)
    gpus = {job["run"]: int(job["gpu"]) for job in before if job["rule"] == "pretrain"}
    assert gpus.pop("random_resnet50") == 0
    assert len(gpus) == 9
    for run, count in gpus.items():
        plan = plan_batch(recipes[run].pretrain, count)
        assert (plan.accumulation, plan.deviations) == (1, ())


def test_the_table_in_the_docs_is_up_to_date(before):
    text = (ROOT / "docs/slurm.md").read_text()
    assert TABLE.search(text)[2] == table(before), "run `make config-docs`"


COMMANDS = {
    "sbatch": 'echo "$@" >>{folder}/submitted; echo not submitted >&2; exit 1',
    "squeue": "exit 0",
    "sinfo": "exit 0",
    "scontrol": 'echo "SLURM_VERSION = 22.05"',
    "sacctmgr": "echo me",
    "sacct": "exit 1",
}


def submitted(folder, target, **user):
    """What sbatch is given for the first job on the way to a target."""
    user_file(folder, **user)
    for name, script in COMMANDS.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script.format(folder=folder)}\n")
        path.chmod(0o755)
    command = [SNAKEMAKE, target, "--profile", ROOT / "slurm", "--snakefile", ROOT / "Snakefile", "--retries", "0"]
    command += ["--slurm-init-seconds-before-status-checks", "1"]
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment.pop("SLURM_JOB_ID", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    path = folder / "submitted"
    assert path.exists(), done.stdout + done.stderr
    return path.read_text()


@pytest.fixture
def trained(tmp_path):
    """Target and working folder where a probe of a trained run is what remains to be done."""
    if not (ROOT / ".venvs/train/installed.sha256").exists():
        pytest.skip("needs .venvs/train")
    for name in ("data/imagenet/train.lmdb", "data/imagenet/val.lmdb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path, "results/pretrain/slimclr_mocov2_200ep/weights.safetensors"


@pytest.mark.parametrize(
    ("mine", "asked", "not_asked"),
    [
        ({"nodes": 1}, ["--gpus=4"], ["--gres"]),
        ({"gpu_model": "a100"}, ["--gpus=a100:4"], ["--gres"]),
        ({"gpu": 0, "gres": "gpu:4"}, ["--gres=gpu:4"], ["--gpus"]),
        ({"gpu": 0, "gres": "gpu:a100:2", "nodes": 2}, ["--gres=gpu:a100:2", "--nodes=2"], ["--gpus"]),
    ],
)
def test_what_sbatch_is_asked_for(trained, mine, asked, not_asked):
    folder, target = trained
    words = submitted(folder, target, **{"set-resources": {"pretrain": mine}})
    always = ["-A me", "-p gpu", "-t 1440", "--mem 128000", "--cpus-per-task=32", "--signal=USR1@120", "--requeue"]
    assert [word for word in always + asked if word not in words] == []
    assert [word for word in not_asked if word in words] == []


def test_qos_and_constraint_reach_sbatch(trained):
    folder, target = trained
    defaults = {"slurm_partition": "gpu", "slurm_account": "me", "qos": "long", "constraint": "a100|h100"}
    words = submitted(folder, target, **{"default-resources": defaults})
    assert "-C 'a100|h100'" in words or "-C a100|h100" in words
    assert "--qos=long" in words


def test_gres_says_how_many_processes_train(tmp_path):
    user_file(tmp_path, **{"set-resources": {"pretrain": {"gpu": 0, "gres": "gpu:4"}}})
    command = [SNAKEMAKE, "all", "--profile", ROOT / "slurm", "--snakefile", ROOT / "Snakefile", "-n", "-p"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    commands = [line for line in (done.stdout + done.stderr).splitlines() if "slimclr pretrain" in line]
    assert len(commands) == 10
    assert all(re.search(r"--gpus 0 --gres=gpu:4 ", line) for line in commands)


@pytest.mark.parametrize(("by", "prefix"), [("gres", "gpu:"), ("gres:a100", "gpu:a100:")])
def test_every_job_asks_for_as_many_gpus_by_gres(before, tmp_path, by, prefix):
    user_file(tmp_path, **{"default-resources": {"slurm_partition": "gpu", "gpus_by": by}})
    after = planned(tmp_path)
    wanted = [f"{prefix}{job['gpu']}" if job.get("gpu", "0") != "0" else "" for job in before]
    assert sum(map(bool, wanted)) == 22
    assert [job.get("gres", "") for job in after] == wanted
    assert {job["gpu"] for job in after if "gpu" in job} == {"0"}


def test_sbatch_is_given_gres_alone(trained):
    folder, target = trained
    defaults = {"slurm_partition": "gpu", "slurm_account": "me", "gpus_by": "gres"}
    words = submitted(folder, target, **{"default-resources": defaults})
    assert "--gres=gpu:4" in words
    assert "--gpus" not in words


def test_another_word_for_gres_is_refused(tmp_path):
    user_file(tmp_path, **{"default-resources": {"gpus_by": "gras"}})
    command = [SNAKEMAKE, "all", "--profile", ROOT / "slurm", "--snakefile", ROOT / "Snakefile", "-n"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "gpus_by=gras: write gres, or gres:MODEL" in done.stdout + done.stderr


def test_the_example_is_whole_when_everything_in_it_is_used(before, tmp_path):
    lines = (ROOT / "workflow/profiles/user.example.yaml").read_text().splitlines()
    start = lines.index("# set-resources:")
    rules = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[start:]))["set-resources"]
    assert set(rules) <= {job["rule"] for job in before}
    user_file(tmp_path, **{"set-resources": rules})
    after = planned(tmp_path)
    assert {job["runtime"] for job in after if job["rule"] == "pretrain"} == {"720"}
    assert {job["slurm_partition"] for job in after if job["rule"] == "report"} == {"cpu"}
