"""The whole DAG with real parts on a small miniature: to the report, again, after changes, a kill, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import torch
import yaml

import slimclr
from slimclr.cli import main
from tests.helpers.reference_checkpoints import made, saved

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all((ROOT / f".venvs/{name}/installed.sha256").exists() for name in ("train", "detection")),
        reason="needs .venvs/train and .venvs/detection; `make test` installs them",
    ),
]

BACKBONE = {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]}
PROBE = {"epochs": 1, "batch": 64, "optimizer": {"lr": 0.3}, "image_size": 32, "resize": 36, "workers": 0}
RECIPES = {
    "moco": {
        "transfer": True,
        "quick": {},
        "pretrain": {
            "method": {"name": "mocov2", "dim": 16, "queue": 128},
            "backbone": BACKBONE,
            "epochs": 3,
            "slow_start_epoch": 1,
            "batch": 64,
            "bn_batch": 32,
            "optimizer": {"lr": 0.03},
            "distillation": {},
            "loss_weights": "sub_sum_to_full",
            "image_size": 32,
            "workers": 1,
        },
        "probe": PROBE,
    },
    "random_resnet14w8": {
        "pretrain": {"method": {"name": "random"}, "backbone": BACKBONE, "epochs": 0, "image_size": 32},
        "probe": PROBE,
    },
}
DETECTION = {
    "epochs": 1,
    "milestones": [],
    "batch": 4,
    "lr": 0.01,
    "grad_clip": 5.0,
    "warmup_iterations": 10,
    "image_scale": [64, 64],
    "workers": 0,
    "fpn_channels": 16,
    "fc_channels": 32,
    "mask_convs": 1,
    "anchor_scale": 4,
    "proposals": 20,
    "roi_sampling": 1,
    "rpn_samples": 16,
    "roi_samples": 16,
}


class Pipeline:
    """One working folder with its config and recipes."""

    def __init__(self, folder):
        self.folder = folder
        self.config = {
            "paths": {"raw": str(folder / "raw"), "work": str(folder / "work")},
            "miniature": {"seed": 1},
            "imagenet": {"expect": "subset"},
            "recipes": str(folder / "recipes"),
            "runs": list(RECIPES),
            "detection": DETECTION,
        }
        (folder / "recipes").mkdir(parents=True)
        for run, recipe in RECIPES.items():
            self.write_recipe(run, recipe)

    def write_recipe(self, run, recipe, comment=""):
        (self.folder / "recipes" / f"{run}.yaml").write_text(comment + yaml.safe_dump(recipe))

    def command(self, target, *options):
        # The target comes first: several of Snakemake's options take as many words as follow.
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        profile = ["--profile", str(ROOT / "local"), "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        return [SNAKEMAKE, target, *profile, "--configfile", str(self.folder / "config.yaml"), *options]

    def run(self, target, *options):
        command = self.command(target, *options)
        # Both streams in one: Snakemake spreads its messages over them.
        return subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500
        )

    def planned(self):
        """Names of the jobs that making everything would take, with their run."""
        done = self.run("all", "-n")
        assert done.returncode == 0, done.stdout
        assert "Nothing to be done" in done.stdout or "Job stats:" in done.stdout
        jobs = []
        for line in done.stdout.splitlines():
            if line.startswith(("rule ", "localrule ", "checkpoint ")):
                jobs.append(line.split()[1].rstrip(":"))
            elif line.strip().startswith("wildcards: run="):
                jobs[-1] += " " + line.split("run=")[1]
        return sorted({job for job in jobs if job != "all"})

    def metrics(self, stage, run):
        return json.loads((self.folder / "work/results" / stage / run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pipeline = Pipeline(tmp_path_factory.mktemp("pipeline") / "p")
    done = pipeline.run("all")
    assert done.returncode == 0, done.stdout
    return pipeline


@pytest.fixture
def copy(finished, tmp_path):
    """A finished pipeline that a test may change; absolute paths stay those of the original."""
    backup = tmp_path / "backup"
    shutil.copytree(finished.folder, backup, symlinks=True)
    config = json.loads(json.dumps(finished.config))
    yield finished
    shutil.rmtree(finished.folder)
    shutil.copytree(backup, finished.folder, symlinks=True)
    finished.config = config


def test_from_the_archives_to_the_report(finished):
    report = finished.folder / "work/results/report"
    page = (report / "index.html").read_text().replace("<wbr>", "")
    assert all(run in page for run in RECIPES)
    for run in RECIPES:
        assert set(finished.metrics("probe", run)["widths"]) == {"1.0", "0.5"}
    quick = finished.metrics("quick", "moco")["widths"]
    assert all({"knn_top1_k20_t0.07", "ridge_top1"} <= set(values) for values in quick.values())
    assert "Quick probes" in page
    for values in finished.metrics("transfer", "moco")["widths"].values():
        assert {"box_ap", "mask_ap"} <= set(values)
    lines = (finished.folder / "work/results/pretrain/moco/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 3 * (1200 // 64)
    assert (report / "tables.csv").exists()
    assert (report / "tables.md").exists()


def test_a_width_is_exported_and_timed(finished):
    results = finished.folder / "work/results"
    for target in ("export/moco/0.5", "latency/moco/metrics.json"):
        done = finished.run(str(results / target))
        assert done.returncode == 0, done.stdout
    assert "| 0.5 (this one) |" in (results / "export/moco/0.5/README.md").read_text()
    images = torch.randn(2, 3, 32, 32)
    slimmable = slimclr.load(results / "pretrain/moco", width=0.5, head="probe")
    with torch.no_grad():
        torch.testing.assert_close(slimclr.load(results / "export/moco/0.5")(images), slimmable(images))
    assert set(finished.metrics("latency", "moco")["widths"]) == {"1.0", "0.5"}
    assert finished.planned() == []


def test_nothing_to_be_done_again_nor_after_a_touch_nor_a_comment(finished):
    assert finished.planned() == []
    for path in (ROOT / "slimclr/methods/mocov2.py", ROOT / "slimclr/config/pretrain.py", ROOT / "envs/train.lock"):
        path.touch()
    finished.write_recipe("moco", RECIPES["moco"], comment="# a thought\n")
    assert finished.planned() == []


def test_a_changed_learning_rate_reruns_that_run_and_what_follows(copy):
    changed = json.loads(json.dumps(RECIPES["moco"]))
    changed["pretrain"]["optimizer"]["lr"] = 0.05
    copy.write_recipe("moco", changed)
    jobs = copy.planned()
    assert jobs == ["pretrain moco", "probe moco", "quick_probe moco", "report", "transfer moco"]


def test_how_a_training_runs_reruns_nothing_and_counts_from_then_on(copy):
    changed = json.loads(json.dumps(RECIPES["moco"]))
    changed["pretrain"] |= {"workers": 2, "log_every": 7, "checkpoint_minutes": 3, "activation_checkpointing": True}
    changed["probe"] |= {"workers": 1, "log_every": 3}
    copy.write_recipe("moco", changed)
    copy.config["detection"] = DETECTION | {"workers": 1}
    assert copy.planned() == ["report"]
    probe = copy.folder / "work/results/probe/moco/metrics.json"
    before, widths = json.loads(probe.read_text()), copy.metrics("probe", "moco")["widths"]
    for folder in (probe.parent, copy.folder / "work/checkpoints/probe/moco"):
        shutil.rmtree(folder)
    assert copy.run(str(probe)).returncode == 0
    (run,) = (copy.folder / "work/checkpoints/probe/moco").glob("*/*/run.json")
    recipe = json.loads(run.read_text())["recipe"]
    assert (recipe["workers"], recipe["log_every"]) == (1, 3)
    assert copy.metrics("probe", "moco")["widths"] == widths
    assert copy.metrics("probe", "moco")["recipe_sha256"] == before["recipe_sha256"]


def test_a_deleted_probe_reruns_probe_and_report(copy):
    shutil.rmtree(copy.folder / "work/results/probe/moco")
    assert copy.planned() == ["probe moco", "report"]
    done = copy.run("report_partial")
    assert done.returncode == 0, done.stdout
    tables = (copy.folder / "work/results/report_partial/tables.md").read_text()
    assert "- Not there yet: probe: moco" in tables
    assert copy.planned() == ["probe moco", "report"]


def test_archives_may_be_removed_after_extraction(copy):
    del copy.config["miniature"]
    for path in (copy.folder / "raw").glob("ILSVRC2012_*"):
        path.unlink()
    assert copy.planned() in ([], ["report"])


def test_killed_pretraining_goes_on_from_its_checkpoint(copy):
    longer = json.loads(json.dumps(RECIPES["moco"]))
    longer["pretrain"]["epochs"] = 12
    copy.write_recipe("moco", longer)
    target = str(copy.folder / "work/results/pretrain/moco/weights.safetensors")
    checkpoints = copy.folder / "work/checkpoints/pretrain/moco"
    with subprocess.Popen(
        copy.command(target), cwd=copy.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        until = time.monotonic() + 120
        # Epochs may grow: it goes on from the finished run's last step, and further.
        while not any(int(path.stem[5:]) >= 4 * 18 for path in checkpoints.glob("*/seed0/step_*.pt")):
            assert time.monotonic() < until
            time.sleep(0.1)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"slimclr\0pretrain" in line and str(copy.folder).encode() in line:
                os.kill(int(process.name), signal.SIGKILL)
        assert running.wait(timeout=60) != 0
    done = copy.run(target)
    output = done.stdout
    assert done.returncode == 0, output
    assert "going on after step" in output
    lines = (copy.folder / "work/results/pretrain/moco/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12 * 18


def test_another_archive_is_trained_on_from_the_beginning(copy):
    before = copy.metrics("pretrain", "moco")
    copy.config["miniature"] = {"seed": 2}
    done = copy.run(str(copy.folder / "work/results/pretrain/moco/weights.safetensors"))
    assert done.returncode == 0, done.stdout
    assert "going on after step" not in done.stdout
    after = copy.metrics("pretrain", "moco")
    assert after["steps"] == before["steps"]
    for key in ("data_sha256", "weights_sha256"):
        assert after[key] != before[key]


def test_scratch_reruns_nothing_and_changes_no_number(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    copy.config["paths"]["scratch"] = "${NODE_DISK}/mine"
    assert copy.planned() == []
    work = copy.folder / "work"
    weights, probe = work / "results/pretrain/moco/weights.safetensors", work / "results/probe/moco/metrics.json"
    before, widths = weights.read_bytes(), copy.metrics("probe", "moco")["widths"]
    for folder in (weights.parent, probe.parent, work / "checkpoints"):
        shutil.rmtree(folder)
    done = copy.run(str(probe))
    assert done.returncode == 0, done.stdout
    for stage, name in (("pretrain", "train"), ("probe", "train"), ("probe", "val")):
        log = (work / f"logs/{stage}/moco.log").read_text()
        assert f"copy {name}.lmdb to {tmp_path}/disk/mine/" in log
    assert weights.read_bytes() == before
    assert copy.metrics("probe", "moco")["widths"] == widths
    assert list(tmp_path.glob("disk/**/*.lmdb")) == []


def test_finished_checkpoints_can_be_freed(copy):
    (folder,) = (copy.folder / "work/checkpoints/pretrain/moco").glob("*/seed0")
    for name in ("epoch_00001.pt", "epoch_00001.pt.sha256"):
        (folder / name).write_text("stays for good")
    done = copy.run("clean_checkpoints")
    assert done.returncode == 0, done.stdout
    assert "finished: removed" in done.stdout
    assert "freed" in done.stdout
    left = [path for path in (copy.folder / "work/checkpoints").rglob("*") if path.is_file()]
    assert sorted(left) == [folder / "epoch_00001.pt", folder / "epoch_00001.pt.sha256"]
    assert copy.planned() == []


def own_archives(pipeline, finished):
    """The miniature's archives as the user's own."""
    (pipeline.folder / "raw").mkdir()
    for archive in finished.folder.glob("raw/ILSVRC2012_*"):
        shutil.copy2(archive, pipeline.folder / "raw")
    del pipeline.config["miniature"]


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        ("truncate", "ILSVRC2012_img_train.tar"),
        ("drop an image", "ILSVRC2012_val_00000007.JPEG"),
        ("no raw folder", "no such file"),
    ],
)
def test_bad_archives_give_one_line_and_no_data_set(finished, tmp_path, break_it, line):
    pipeline = Pipeline(tmp_path / "p")
    own_archives(pipeline, finished)
    raw, split = pipeline.folder / "raw", "train"
    if break_it == "truncate":
        path = raw / "ILSVRC2012_img_train.tar"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif break_it == "drop an image":
        split, path = "val", raw / "ILSVRC2012_img_val.tar"
        with tarfile.open(path) as whole, tarfile.open(raw / "less.tar", "w") as less:
            for member in whole:
                if "00000007" not in member.name:
                    less.addfile(member, whole.extractfile(member))
        (raw / "less.tar").rename(path)
    else:
        pipeline.config["paths"]["raw"] = str(tmp_path / "nowhere")
    product = pipeline.folder / f"work/data/imagenet/{split}.lmdb"
    done = pipeline.run(str(product))
    assert done.returncode != 0
    errors = [text for text in done.stdout.splitlines() if text.startswith("slimclr extract: error:")]
    assert len(set(errors)) == 1
    assert line in errors[0]
    assert not product.exists()
    assert not (pipeline.folder / f"work/data/imagenet/{split}/manifest.parquet").exists()


def test_more_gpus_than_there_are_give_one_line(copy):
    import torch

    if torch.cuda.device_count() >= 7:
        pytest.skip("this machine has seven GPUs")
    target = str(copy.folder / "work/results/probe/moco/metrics.json")
    done = copy.run(target, "--force", "--set-resources", "probe:gpu=7", "--resources", "gpu=8")
    assert done.returncode != 0
    assert "slimclr probe: error: 7 GPUs requested, but" in done.stdout


def test_a_misspelt_key_is_refused_before_any_job(tmp_path):
    pipeline = Pipeline(tmp_path / "p")
    pipeline.config["imagnet"] = pipeline.config.pop("imagenet")
    done = pipeline.run("all", "-n")
    assert done.returncode != 0
    assert "imagnet: unknown key (did you mean 'imagenet'?)" in done.stdout


def test_the_papers_config_plans_without_data_or_gpu(tmp_path):
    profile = ["--profile", str(ROOT / "local"), "--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run([SNAKEMAKE, *profile, "-n", "all"], cwd=tmp_path, capture_output=True, text=True)
    # without a config of its own the Snakefile takes config/config.yaml beside it
    assert done.returncode == 0, done.stderr
    counts = dict(line.split() for line in (done.stdout).splitlines() if len(line.split()) == 2)
    assert (counts["pretrain"], counts["probe"], counts["transfer"]) == ("10", "10", "3")


def test_snakemakes_own_report_has_the_tables_the_figures_and_each_runs_results(copy):
    done = copy.run("all", "--report", "own.zip")
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(copy.folder / "own.zip") as archive:
        names = {PurePosixPath(name).name for name in archive.namelist()}
    assert {"index.html", "tables.csv", "training_moco.svg", "metrics.json"} <= names
