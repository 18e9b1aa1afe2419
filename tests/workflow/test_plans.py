"""Dry runs: which jobs a config asks for, and with which options. They need neither data nor environments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from slimclr.cli import main
from slimclr.files import sha256
from tests.helpers.reference_checkpoints import made, saved

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"


def planned(folder, target, *, config=None, file=None, options=()):
    """What `snakemake -n -p` says in an empty folder."""
    if config is not None:
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
    profile = ["--profile", str(ROOT / "local"), "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    command = [SNAKEMAKE, target, *profile, "-n", "-p", "--configfile", str(file), *options]
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


def test_training_images_are_scaled_down_as_the_config_says(tmp_path):
    config = {"imagenet": {"lmdb_resize": {"shorter_side": 400}}, "runs": ["slimclr_mocov2_200ep"]}
    code, output = planned(tmp_path, "results/probe/slimclr_mocov2_200ep/metrics.json", config=config)
    assert code == 0, output
    train, val = sorted(line for line in output.splitlines() if "slimclr convert --folder" in line)
    assert "train.lmdb --shorter-side 400 --quality 90 " in train
    assert "val.lmdb  2>&1" in val


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


RUN = "slimclr_mocov2_200ep"
CONFIG = {"imagenet": {"expect": "subset"}, "runs": [RUN, "random_resnet50"]}


def import_into(folder):
    """A checkpoint of the reference takes the place of the run's pre-training."""
    _, state = made("mocov2_slim", "encoder_q.")
    file = saved(folder, state)
    assert main(["import", str(file), "--out", str(folder / "results/pretrain" / RUN / "weights.safetensors")]) == 0
    return folder / "results/pretrain" / RUN


@pytest.mark.parametrize("options", [(), ("--forceall",), ("--forcerun", "pretrain")])
def test_an_imported_run_is_never_pre_trained(tmp_path, options):
    folder = import_into(tmp_path)
    for name in ("weights.safetensors", "metrics.json"):
        os.utime(folder / name, (1, 1))
    # Newer than the weights: archives and databases; and outputs of the rule that an import does not have.
    for name in ("raw/ILSVRC2012_img_train.tar", "data/imagenet/train.lmdb", "data/imagenet/val.lmdb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    code, output = planned(tmp_path, "all", config=CONFIG, options=options)
    assert code == 0, output
    jobs = counts(output)
    assert (jobs["pretrain"], jobs["probe"]) == (1, 2)
    assert "wildcards: run=random_resnet50" in output.partition("rule pretrain:")[2].partition("\n\n")[0]


def test_a_config_of_imported_runs_alone_can_be_planned(tmp_path):
    import_into(tmp_path)
    code, output = planned(tmp_path, "all", config=CONFIG | {"runs": [RUN]})
    assert code == 0, output
    assert "pretrain" not in counts(output)
    # Where the user takes it away the run is trained again.
    shutil.rmtree(tmp_path / "results")
    assert counts(planned(tmp_path, "all", config=CONFIG)[1])["pretrain"] == 2


def put(folder, header, metrics=None):
    """Weights put by hand, with what the header and metrics.json say."""
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, folder / "weights.safetensors", header and {"slimclr": json.dumps(header)})
    (folder / "metrics.jsonl").touch()
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


TRAINED = {"stage": "pretrain", "run": RUN}


@pytest.mark.parametrize(
    ("header", "metrics", "fault"),
    [
        ({"stage": "import", "run": RUN}, None, "has no metrics.json beside it"),
        ({"stage": "import", "run": RUN}, TRAINED, f"is not what metrics.json beside it describes, run '{RUN}'"),
        (
            TRAINED | {"run": "other"},
            TRAINED | {"run": "other"},
            "is not what metrics.json beside it describes, run 'other'",
        ),
        (TRAINED, None, "has no metrics.json beside it"),
        (None, None, "has no metrics.json beside it"),
    ],
)
def test_weights_put_by_hand_without_their_description_stop_snakemake(tmp_path, header, metrics, fault):
    folder = tmp_path / "results/pretrain" / RUN
    put(folder, header, metrics)
    code, output = planned(tmp_path, "all", config=CONFIG)
    assert code == 1
    (line,) = [line for line in output.splitlines() if "weights.safetensors" in line]
    path = f"results/pretrain/{RUN}"
    assert line == (
        f"{path}/weights.safetensors: not made here by the rule pretrain, and {fault}; to keep it run `slimclr import "
        f"{path}/weights.safetensors --out {path}`, to train the run move it elsewhere"
    )
    assert "Traceback" not in output
    assert (folder / "weights.safetensors").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_trained_weights_stay_products_of_the_rule(tmp_path, killed):
    put(tmp_path / "results/pretrain" / RUN, TRAINED, None if killed else TRAINED)
    if killed:
        (tmp_path / "checkpoints/pretrain" / RUN).mkdir(parents=True)
    code, output = planned(tmp_path, "all", config=CONFIG)
    assert code == 0, output
    assert counts(output)["pretrain"] == 2


def test_the_miniature_replaces_nobodys_archives(tmp_path):
    own = tmp_path / "raw/ILSVRC2012_img_train.tar"
    own.parent.mkdir()
    own.write_text("a user's")
    config = {"miniature": {}, "imagenet": {"expect": "subset"}, "runs": ["random_resnet50"]}
    code, output = planned(tmp_path, "all", config=config)
    assert code == 1
    assert "raw/ILSVRC2012_img_train.tar: not generated here, and the miniature would replace it" in output
    (own.parent / ".miniature").touch()
    code, output = planned(tmp_path, "all", config=config)
    assert code == 0, output


def test_a_run_that_begins_with_another_waits_for_it(tmp_path):
    recipe = yaml.safe_load((ROOT / "config/runs/slimclr_mocov2_200ep.yaml").read_text()) | {"paper": False}
    pretrain = recipe["pretrain"]
    for run, changes in (
        ("first", {"keep_state": True}),
        ("second", {"init": "first", "init_take": "state"}),
        ("third", {"init": "first"}),
        ("fourth", {"init": "mine.safetensors"}),
    ):
        (tmp_path / f"{run}.yaml").write_text(yaml.safe_dump(recipe | {"pretrain": pretrain | changes}))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/mine.safetensors").touch()
    config = {"runs": ["first", "second", "third", "fourth"], "recipes": str(tmp_path)}
    code, output = planned(tmp_path, "all", config=config)
    assert code == 0, output
    jobs = counts(output)
    assert (jobs["pretrain"], jobs["pretrain_keep_state"]) == (3, 1)
    blocks = {
        block.partition("run=")[2].split()[0]: block for block in output.split("\nrule ") if "pretrain" in block[:20]
    }
    assert "results/pretrain/first/state.safetensors" in blocks["first"].partition("output:")[2]
    assert "--init results/pretrain/first/state.safetensors" in blocks["second"]
    assert "results/pretrain/first/weights.safetensors" in blocks["third"].partition("input:")[2].splitlines()[0]
    assert "--init raw/mine.safetensors" in blocks["fourth"]


def test_quick_probes_and_fine_tuning_are_made_where_a_recipe_asks(tmp_path):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    plain = yaml.safe_load((ROOT / "config/runs/slimclr_mocov2_200ep.yaml").read_text())
    tuned = {"epochs": 10, "batch": 256, "optimizer": {"lr": 0.1}, "names": "lists/1 percent.txt", "workers": 3}
    (recipes / "plain.yaml").write_text(yaml.safe_dump(plain))
    (recipes / "asked.yaml").write_text(yaml.safe_dump(plain | {"quick": {"neighbours": [5]}, "finetune": tuned}))
    config = {"runs": ["plain", "asked"], "recipes": str(recipes), "paths": {"raw": "raw"}}
    code, output = planned(tmp_path, "all", config=config)
    assert code == 0, output
    jobs = counts(output)
    assert (jobs["probe"], jobs["quick_probe"], jobs["finetune"]) == (2, 1, 1)
    (quick,) = [line for line in output.splitlines() if "slimclr quick" in line]
    assert "--name asked" in quick
    assert '"neighbours": [5]' in quick
    (tuning,) = [line for line in output.splitlines() if "slimclr finetune" in line]
    assert "--names 'raw/lists/1 percent.txt'" in tuning
    assert """--settings '{"asked": {"workers": 3}}'""" in tuning
    # The target makes quick probes of every run.
    code, output = planned(tmp_path, "quick", config=config)
    assert code == 0, output
    assert counts(output)["quick_probe"] == 2
    assert "probe" not in counts(output)


def test_export_and_latency_are_targets_for_every_run(tmp_path):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    backbone = {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]}
    probe = {"epochs": 1, "optimizer": {"lr": 0.1}}
    drawn = {"method": {"name": "random"}, "backbone": backbone, "epochs": 0}
    own = {"method": {"name": "supervised"}, "views": "normal", "bn_batch": 32, "backbone": backbone, "epochs": 1, "batch": 32, "optimizer": {"lr": 0.1}}
    (recipes / "random_resnet14w8.yaml").write_text(yaml.safe_dump({"pretrain": drawn, "probe": probe}))
    (recipes / "own.yaml").write_text(yaml.safe_dump({"pretrain": own, "probe": {"epochs": 0}}))
    config = {"recipes": str(recipes), "runs": ["random_resnet14w8", "own"], "export": {"formats": ["onnx", "int8"]}}
    code, output = planned(tmp_path, "export", config=config)
    assert code == 0, output
    assert counts(output)["export_width"] == 4
    commands = [line for line in output.splitlines() if "slimclr export" in line]
    assert sum("--head probe --format onnx int8" in line for line in commands) == 2
    assert sum("--head own" in line for line in commands) == 2
    assert sum("results/export/own/0.5 " in line for line in commands) == 1
    assert all("train.lmdb --val" in line for line in commands)
    jobs = counts(planned(tmp_path, "all", config=config)[1])
    assert "export_width" not in jobs
    assert "measure_latency" not in jobs
    assert counts(planned(tmp_path, "latency", config=config)[1])["measure_latency"] == 2
    assert counts(planned(tmp_path, "all", config=config | {"latency": {"report": True}})[1])["measure_latency"] == 2


def test_a_classifier_that_is_brought_needs_no_training_images(tmp_path):
    file = tmp_path / "raw/released/own.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not looked into by a plan")
    (tmp_path / "recipes").mkdir()
    recipe = {"checkpoint": {"file": "own.pth", "sha256": sha256(file)}, "probe": {"epochs": 0}}
    (tmp_path / "recipes/own.yaml").write_text(yaml.safe_dump(recipe))
    config = CONFIG | {"recipes": str(tmp_path / "recipes"), "runs": ["own"]}
    code, output = planned(tmp_path, "all", config=config)
    assert code == 0, output
    jobs = {"extract_val": 1, "convert": 1, "import_checkpoint": 1, "probe": 1, "report": 1, "all": 1}
    assert counts(output) == jobs
    assert "--train" not in output.partition("slimclr probe")[2].partition("\n")[0]
    file.unlink()
    code, output = planned(tmp_path, "all", config=config)
    assert code == 0, output
    assert counts(output) == {"report": 1, "absent_checkpoints": 1, "all": 1}
    assert "left out: raw/released/own.pth: no such file; download it and lay it there" in output
