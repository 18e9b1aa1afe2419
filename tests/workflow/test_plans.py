"""Dry runs: which jobs a config asks for, and with which options. They need neither data nor environments."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"


def planned(folder, target, *, config=None, file=None):
    """What `snakemake -n -p` says in an empty folder."""
    if config is not None:
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
    profile = ["--profile", str(ROOT / "local"), "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    command = [SNAKEMAKE, target, *profile, "-n", "-p", "--configfile", str(file)]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def counts(output):
    """Jobs by rule."""
    table = output.rpartition("Job stats:")[2].partition("total ")[0]
    rows = (line.split() for line in table.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def test_cifar10_goes_from_its_archive_to_the_report_without_coco(tmp_path):
    code, output = planned(tmp_path, "all", file=ROOT / "config/cifar10.yaml")
    assert code == 0, output
    assert counts(output) == {"cifar": 1, "pretrain": 3, "probe": 3, "report": 1, "all": 1}
    (command,) = [line for line in output.splitlines() if "slimclr cifar --source" in line]
    assert "--source raw/cifar-10-python.tar.gz --out cifar10/data/cifar10 " in command
    trained = [line for line in output.splitlines() if "slimclr pretrain" in line and "--data" in line]
    assert len(trained) == 2
    assert all("--data cifar10/data/cifar10/train.lmdb" in line for line in trained)
    probed = [line for line in output.splitlines() if "slimclr probe" in line]
    assert len(probed) == 3
    assert all("--val cifar10/data/cifar10/val.lmdb" in line for line in probed)


def test_one_machines_jobs_share_its_cores_as_they_share_its_gpus(tmp_path, monkeypatch):
    command = [SNAKEMAKE, "all", "--profile", ROOT / "local", "--snakefile", ROOT / "Snakefile", "-n", "--cores", "64"]
    command += ["--configfile", ROOT / "config/cifar10.yaml"]
    for devices, threads in (("0,1,2,3,4,5,6,7", "8"), ("", "32")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        jobs = [job for job in done.stdout.split("\nrule ") if job.startswith("pretrain") and "--data" not in job]
        trained = [job for job in jobs if "run=random" not in job]
        assert len(trained) == 2, done.stdout
        assert all(f"threads: {threads}\n" in job for job in trained), done.stdout


@pytest.mark.parametrize(("resize", "option"), [(None, ""), (256, "--resize 256")])
def test_recordio_is_resized_as_the_config_says(resize, option, tmp_path):
    config = {"imagenet": {"recordio_resize": resize}, "runs": ["slimclr_mocov2_200ep"]}
    code, output = planned(tmp_path, "recordio", config=config)
    assert code == 0, output
    commands = [line for line in output.splitlines() if "slimclr recordio --data" in line]
    assert len(commands) == 2
    assert all(f"val.rec {option} --jobs" in line or f"train.rec {option} --jobs" in line for line in commands)
    assert counts(output)["extract_train"] == 1


def test_val_is_compared_but_no_input_of_a_training(tmp_path):
    config = {"runs": ["slimclr_mocov2_200ep"], "paths": {"raw": "a raw", "work": "work"}}
    weights = "work/results/pretrain/slimclr_mocov2_200ep/weights.safetensors"
    code, output = planned(tmp_path, weights, config=config)
    assert code == 0, output
    assert not [rule for rule in counts(output) if "val" in rule]
    (extraction,) = [line for line in output.splitlines() if "slimclr extract" in line]
    assert "--other 'a raw/ILSVRC2012_img_val.tar' --devkit 'a raw/ILSVRC2012_devkit_t12.tar.gz'" in extraction
    (training,) = [line for line in output.splitlines() if "slimclr pretrain" in line]
    assert "--val work/data/imagenet/val.lmdb" in training
    assert "val.lmdb" not in "".join(line for line in output.splitlines() if line.strip().startswith("input:"))

    code, output = planned(tmp_path, "work/data/imagenet/val.lmdb", config=config)
    assert "--other 'a raw/ILSVRC2012_img_train.tar'" in output
