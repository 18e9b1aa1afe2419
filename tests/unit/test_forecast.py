"""`slimclr plan`: arithmetic from stated rates, real steps of a small network, Snakemake's jobs, the largest batch."""

import json
from pathlib import Path

import pytest
import yaml

from slimclr import plan
from slimclr.cli import main
from slimclr.config import Config, Pretrain, Recipe, dump
from slimclr.errors import UserError
from slimclr.miniature.write import write_miniature
from slimclr.plan import bench, sizes
from slimclr.plan.forecast import forecast, requeues_of
from slimclr.plan.jobs import Job, Machine, parse_dry_run, planned_jobs, read_profile
from slimclr.plan.largest import advice, allowed, available_gb, bisect_largest
from slimclr.plan.measure import Bench
from slimclr.plan.rates import DataSet, PretrainRate, Rates, merge, read_rates, write_rates
from slimclr.plan.schedule import Task, schedule
from slimclr.stages.data import convert, extract
from tests.helpers.small_recipe import RECIPE

ROOT = Path(__file__).parents[2]
SIMCLR = Pretrain.model_validate(RECIPE | {"bn_batch": 32, "method": {"name": "simclr", "dim": 16}})
PROBE = {"epochs": 3, "batch": 32, "optimizer": {"lr": 0.1}, "image_size": 32, "resize": 36, "workers": 0}
LAPTOP = Machine("local", shared=True, cores=2, gpus=None, jobs=None, retries=0)
CLUSTER = Machine("slurm", shared=False, cores=2, gpus=None, jobs=100, retries=3)


def job(rule, needs=(), run=None, threads=1, **resources):
    wildcards = {"run": run} if run else {}
    name = f"{rule} {run}" if run else rule
    values = {key: str(value) for key, value in resources.items()}
    return Job(rule, name, wildcards, (f"/nowhere/{name}",), tuple(needs), threads, values)


def pipeline(**resources):
    """Extraction to report of one run."""
    return [
        job("extract_train", mem_mb=4000),
        job("extract_val"),
        job("pretrain", ["extract_train"], "small", **resources),
        job("probe", ["extract_train", "extract_val", "pretrain small"], "small", **resources),
        job("report", ["probe small"]),
    ]


RATES = {
    "start_s": {"pretrain": 10, "probe": 5, "report": 1},
    "pretrain": {"default": {"images_per_s": 100, "full_width_images_per_s": 400, "memory_gb": 3}},
    "probe": {"default": {"images_per_s": 1000, "evaluation_images_per_s": 500}},
    "data": {"extract_mb_per_s": 50},
    "data_set": {"train_images": 32_010, "val_images": 1_000, "train_mb": 3200, "val_mb": 100},
}


def forecast_of(jobs, machine=CLUSTER, rates=RATES, pretrain=SIMCLR, **options):
    config = Config(runs=("small",), imagenet={"keep_folder": False})
    recipes = {"small": Recipe(pretrain=pretrain, probe=PROBE)}
    result = forecast(jobs, config, recipes, Rates.model_validate(rates), machine, **options)
    return result, {entry.job.name: entry for entry in result.jobs}


# ------------------------------------------------------------------------------------------------- the arithmetic


def test_hours_follow_from_the_recipe_and_stated_rates():
    result, entries = forecast_of(pipeline(gpu=2))
    # 1000 batches of 32, half of each on one GPU; one epoch before slow start and one after.
    pretraining = 10 + 16_000 / 400 + 16_000 / 100
    probing = 5 + 3 * 16_000 / 1000 + 500 / 500
    assert entries["extract_train"].seconds == pytest.approx(64)
    assert entries["pretrain small"].seconds == pytest.approx(pretraining)
    assert entries["pretrain small"].gpu_hours == pytest.approx(2 * pretraining / 3600)
    assert entries["probe small"].seconds == pytest.approx(probing)
    assert entries["pretrain small"].memory_gb == 6
    assert result.seconds == pytest.approx(64 + pretraining + probing + 1)
    assert result.unknown == []


def test_what_no_rate_says_is_unknown_and_named():
    rates = {key: value for key, value in RATES.items() if key != "probe"}
    result, entries = forecast_of(pipeline(gpu=2), rates=rates)
    assert entries["probe small"].seconds is None
    assert entries["probe small"].gpu_hours is None
    assert result.unknown == ["probe small"]


@pytest.mark.parametrize(
    ("hours", "limit", "requeues"), [(1, 24, 0), (24, 24, 0), (24.1, 24, 1), (71.9, 24, 2), (72, 24, 2), (5, None, 0)]
)
def test_requeues(hours, limit, requeues):
    assert requeues_of(3600 * hours, limit and 3600 * limit) == requeues


def test_more_requeues_than_the_profile_retries_and_too_little_memory_are_told():
    resources = {"gpu": 1, "runtime": 1, "mem_mb": 2000}
    result, entries = forecast_of(pipeline(**resources))
    assert entries["pretrain small"].requeues == 6
    requeues, memory = result.warnings
    assert "pretrain small: 6 requeues, profile slurm retries 3 times" in requeues
    assert "about 3,000 MB of memory, 2,000 MB are asked for" in memory
    assert "--set-resources pretrain:mem_mb=3000" in memory
    assert forecast_of(pipeline(**resources), time_limit_h=1)[1]["pretrain small"].requeues == 0


def test_time_limits():
    assert [plan.hours(text) for text in ("24h", "90m", "2d")] == [24, 1.5, 48]
    for text in ("24", "h", "0h", "-1h"):
        with pytest.raises(UserError, match="write 24h, 90m or 2d"):
            plan.hours(text)


# ------------------------------------------------------------------------------------------------- side by side


def test_jobs_wait_for_what_they_need_and_for_room():
    tasks = [Task("a", (), 10), Task("b", ("a",), 5), Task("c", (), 4, gpus=1), Task("d", (), 6, gpus=1)]
    spans = schedule(tasks, Machine("m", False, 2, 1, None, 0))
    assert spans["b"] == (10, 15)
    # One GPU: the longer one first.
    assert spans["d"] == (0, 6)
    assert spans["c"] == (6, 10)
    one_at_a_time = schedule(tasks, Machine("m", False, 2, None, 1, 0))
    assert max(end for _, end in one_at_a_time.values()) == 25


def test_a_network_of_one_width_has_the_full_widths_rate():
    changes = {"backbone": RECIPE["backbone"] | {"widths": [1.0]}, "slow_start_epoch": 0, "loss_weights": "equal"}
    one = Pretrain.model_validate(dump(SIMCLR) | changes | {"distillation": None})
    seconds = forecast_of(pipeline(), pretrain=one)[1]["pretrain small"].seconds
    assert seconds == pytest.approx(10 + 2 * 32_000 / 400)


def test_jobs_that_share_cores_slow_each_other_down():
    tasks = [Task("a", (), 10, cores=2.0), Task("b", (), 10, cores=2.0)]
    assert {end for _, end in schedule(tasks, LAPTOP).values()} == {20}
    assert {end for _, end in schedule(tasks, CLUSTER).values()} == {10}
    # When the short one has ended, the long one has the machine to itself.
    spans = schedule([Task("a", (), 10, cores=2.0), Task("b", (), 5, cores=2.0)], LAPTOP)
    assert spans["b"][1] == pytest.approx(10)
    assert spans["a"][1] == pytest.approx(15)


# ------------------------------------------------------------------------------------------------- jobs

DRY_RUN = """\
Building DAG of jobs...
[Tue Nov 24 23:36:16 2026]
localrule convert:
    input: data/train/manifest.parquet
    output: data/train.lmdb
    jobid: 3
    wildcards: split=train
    resources: tmpdir=/tmp
[Tue Nov 24 23:36:16 2026]
rule pretrain:
    input: data/train.lmdb
    output: results/pretrain/a/weights.safetensors, results/pretrain/a/metrics.json
    jobid: 1
    wildcards: run=a
    threads: 4
    resources: tmpdir=/tmp, gpu=0, gres=gpu:a100:4, nodes=2, cpus_per_task=32, runtime=1440, mem_mb=128000
rule all:
    input: results/pretrain/a/metrics.json
    jobid: 0
Job stats:
"""


def test_jobs_out_of_a_dry_run():
    first, second = parse_dry_run(DRY_RUN)
    assert (first.name, first.needs, first.gpus) == ("convert train", (), 0)
    assert (second.name, second.needs) == ("pretrain a", ("convert train",))
    assert (second.gpus, second.processes, second.cpus, second.number("runtime")) == (8, 8, 32, 1440)


def test_the_demos_jobs_are_those_of_snakemake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, machine = read_profile("local", ROOT)
    config = ROOT / "config/demo.yaml"
    jobs, _ = planned_jobs(["all"], config=config, profile=folder, machine=machine, root=ROOT, gpus=0)
    by_name = {job.name: job for job in jobs}
    runs = [
        f"{rule} {run}"
        for rule in ("pretrain", "probe", "transfer")
        for run in ("demo_slimclr_simclr", "random_resnet14w16")
    ]
    single = ["miniature", "extract_train", "extract_val", "convert train", "convert val", "report"]
    assert sorted(by_name) == sorted(runs + single)
    assert by_name["pretrain demo_slimclr_simclr"].needs[-1:] == ("convert train",)
    assert by_name["extract_val"].needs[-1:] == ("miniature",)
    assert not any(job.done for job in by_name.values())
    assert machine.shared


def test_a_profile_that_there_is_not():
    with pytest.raises(UserError, match=r"--profile moon: .* local, slurm"):
        read_profile("moon", ROOT)


# ------------------------------------------------------------------------------------------------- rates


def test_rates_are_written_as_they_are_read(tmp_path):
    rates = Rates.model_validate(RATES)
    write_rates(rates, tmp_path / "rates.yaml")
    assert read_rates(tmp_path / "rates.yaml") == rates


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pretrain: {default: {image_per_s: 3}}", "unknown key (did you mean 'images_per_s'?)"),
        ("data: {extract_mb_per_s: -1}", "data.extract_mb_per_s: Input should be greater than 0, but it is -1"),
        ("- 1", "must hold keys and values"),
        (None, "no such file"),
    ],
)
def test_a_wrong_rates_file_is_one_line(text, told, tmp_path, capsys):
    path = tmp_path / "rates.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["plan", "--config", str(ROOT / "config/demo.yaml"), "--rates", str(path), "--no-measure"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert str(path) in lines[0]


def test_what_is_stated_wins_over_what_was_measured():
    measured = Rates(
        pretrain={"a": PretrainRate(images_per_s=1), "b": PretrainRate(images_per_s=2)},
        data_set=DataSet(train_images=5, val_images=6),
    )
    stated = Rates(pretrain={"a": PretrainRate(images_per_s=9)}, data_set=DataSet(train_images=7))
    both = merge(stated, measured)
    assert {run: rate.images_per_s for run, rate in both.pretrain.items()} == {"a": 9, "b": 2}
    assert (both.data_set.train_images, both.data_set.val_images) == (7, 6)


# ------------------------------------------------------------------------------------------------- the command


def test_json_and_table_of_stated_rates(tmp_path, monkeypatch, capsys):
    jobs = [
        job("pretrain", run="demo_slimclr_simclr"),
        job("transfer", ["pretrain demo_slimclr_simclr"], "demo_slimclr_simclr"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "planned_jobs", lambda *_, **__: (jobs, 1.0))
    rates = {"pretrain": {"default": {"images_per_s": 100}, "elsewhere": {"images_per_s": 1}}}
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(rates))
    command = ["plan", "--config", str(ROOT / "config/demo.yaml"), "--rates", "rates.yaml", "--no-measure"]
    assert main([*command, "--json", "--write-rates", "used.yaml"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    # 24 epochs of 18 batches of 64.
    assert document["jobs"][0]["seconds"] == pytest.approx(24 * 18 * 64 / 100)
    assert document["totals"]["without_time"] == ["transfer demo_slimclr_simclr"]
    assert any("elsewhere is no run of this config" in note for note in document["notes"])
    assert read_rates(tmp_path / "used.yaml").data_set.train_images == 1200
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["pretrain", "1"] and "4.6 min" in line for line in lines)
    assert any(line.startswith("times: without transfer demo_slimclr_simclr") for line in lines)


# ------------------------------------------------------------------------------------------------- disk


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small miniature, extracted and converted."""
    folder = tmp_path_factory.mktemp("plan")
    write_miniature(folder / "raw", classes=2, train_per_class=72, val_per_class=4, coco_train=1, coco_val=1)
    extract(
        "train", archive=folder / "raw/ILSVRC2012_img_train.tar", devkit=None, expect="subset", out=folder / "train"
    )
    convert(folder=folder / "train", out=folder / "train.lmdb")
    return folder


def test_disk_is_that_of_a_written_folder_and_lmdb(written):
    files = list((written / "train").glob("*/*.JPEG"))
    size = sum(file.stat().st_size for file in files)
    lmdb = (written / "train.lmdb").stat().st_size
    overhead = (lmdb - size) / len(files)
    # As a larger set of the same photos would have it.
    data = DataSet(train_images=len(files), train_mb=size / 1e6, lmdb_bytes_per_image=overhead)
    folder = sum(file.stat().st_blocks * 512 for file in files)
    assert sizes.split_disk(data, "train", "lmdb", Rates().data) == pytest.approx(lmdb / 1e9, rel=0.01)
    assert sizes.split_disk(data, "train", "folder", Rates().data) == pytest.approx(folder / 1e9, rel=0.15)
    assert sizes.split_disk(DataSet(), "train", "lmdb", Rates().data) is None


def test_disk_of_a_pretraining_is_that_of_its_checkpoints_and_weights():
    alone = sizes.pretrain_disk(SIMCLR, 8)
    kept = sizes.pretrain_disk(SIMCLR.model_copy(update={"keep_every_epochs": 1}), 8)
    assert kept - alone == pytest.approx(2 * (alone / 3), rel=0.2)


def test_too_little_disk_is_told(tmp_path):
    result, _ = forecast_of(pipeline(), rates=RATES | {"data_set": RATES["data_set"] | {"train_mb": 1e12}})
    (line,) = plan._space(result, tmp_path)
    assert "free; free space, or set paths.work" in line
    assert plan._space(forecast_of(pipeline())[0], tmp_path) == []


def test_the_papers_sizes_come_with_the_config():
    data = sizes.data_set(Config(runs=("a",)))
    assert (data.train_images, data.val_images, data.coco_train_images) == (1_281_167, 50_000, 117_266)
    assert data.train_mb == pytest.approx(147_897, rel=1e-3)
    assert sizes.data_set(Config(runs=("a",), imagenet={"expect": "subset"})).train_images is None


# ------------------------------------------------------------------------------------------------- measuring


def test_real_steps_of_a_small_network(written):
    measured = bench.pretrain(
        dump(SIMCLR), batch=16, classes=2, workers=1, device="cpu", data=str(written / "train.lmdb")
    )
    assert measured["measured_batch"] == 16
    assert min(measured["full_width_images_per_s"], measured["images_per_s"]) > 0
    # Without loader processes loading takes its time as well.
    assert measured["images_per_s"] < measured["loader_images_per_s"]
    assert PretrainRate(**{key: measured[key] for key in PretrainRate.model_fields}).memory_gb > 0


def test_a_probes_steps_and_evaluation(written, tmp_path):
    weights = bench.drawn(dump(SIMCLR), folder=str(tmp_path))["weights"]
    options = {"batch": 16, "classes": 2, "workers": 1, "device": "cpu", "data": str(written / "train.lmdb")}
    measured = bench.probe(PROBE, weights=weights, **options)
    assert measured["images_per_s"] > 0
    assert measured["evaluation_images_per_s"] > 0


def test_a_step_that_would_take_minutes_is_measured_with_fewer_images():
    assert bench.affordable(256, 32e9, device="cuda") == 256
    assert bench.affordable(256, 32e9, device="cpu") == 2
    assert bench.affordable(256, 32e9, unit=8, device="cpu") == 16
    assert bench.affordable(64, 1e6, device="cpu") == 64


def test_photos_of_the_size_that_is_wanted():
    assert len(bench._photo(0, 115_000)) == pytest.approx(115_000, rel=0.05)


def test_a_task_that_fails_is_one_line(tmp_path):
    run = Bench(tmp_path, ROOT)
    with pytest.raises(UserError, match="no such data set"):
        run("pretrain", recipe=dump(SIMCLR), batch=2, classes=2, workers=1, device="cpu", data=str(tmp_path / "x.lmdb"))
    with pytest.raises(UserError, match=r"not installed; run make \.venvs/nowhere"):
        run("recordio", environment="nowhere")


# ------------------------------------------------------------------------------------------------- the largest batch


@pytest.mark.parametrize("limit", [0, 1, 5, 8, 100, 1000])
def test_doubling_and_bisecting(limit):
    batches, tried = list(range(1, 101)), []
    found = bisect_largest(batches, lambda batch: tried.append(batch) or batch <= limit)
    assert found == (min(limit, 100) or None)
    assert len(tried) == len(set(tried)) <= 2 * len(batches).bit_length()


def test_only_batches_that_the_method_can_work_with():
    method = {"name": "mocov2", "dim": 16, "queue": 192, "bn_splits": 2}
    moco = Pretrain.model_validate(RECIPE | {"method": method})
    assert allowed(moco, 1) == [2, 4, 6, 8, 16, 24, 32, 48, 64, 96, 192]
    assert 3 in allowed(SIMCLR, 1)


def test_advice_on_a_gpu_where_the_batch_does_not_fit():
    def memory(batches, recipe):
        per_image = 0.25 if recipe.activation_checkpointing else 1.0
        return {batch: 2 + per_image * batch if per_image * batch <= 10 else None for batch in batches}

    first, own, smaller, saving = advice(SIMCLR, 1, "cuda", memory, limit_gb=None)
    assert "fits on one GPU: 8 (10.0 GB)" in first
    assert "the recipe's batch, 32 of 32" in own
    assert own.endswith("does not fit")
    assert "max_batch_per_gpu: 8 is refused" in smaller
    assert "set pretrain.allow_not_comparable: true" in smaller
    assert saving.endswith("fits")


def test_the_largest_batch_on_the_cpu_follows_from_small_ones():
    def memory(batches, recipe):
        return dict.fromkeys(batches, 0.5 + 0.01 * batches[0])

    first, own = advice(SIMCLR, 2, "cpu", memory, limit_gb=3.0)
    assert "fits into 1.5 GB: 96" in first
    assert "a line through measured batches" in first
    assert own.endswith("takes 0.7 GB")
    with pytest.raises(UserError, match=r"not even one image fits into 0\.2 GB"):
        advice(SIMCLR, 1, "cpu", memory, limit_gb=0.2)


def test_memory_of_real_steps_grows_with_the_batch(tmp_path):
    measured = bench.memory(dump(SIMCLR), batches=[2, 4], classes=2, device="cpu")["memory_gb"]
    assert 0 < measured["2"] <= measured["4"]


def test_a_control_groups_memory_counts(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    assert available_gb(tmp_path, tmp_path / "meminfo") == pytest.approx(8.192)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_gb(tmp_path, tmp_path / "meminfo") == pytest.approx(8.192)
    (tmp_path / "memory.max").write_text("1000001000\n")
    assert available_gb(tmp_path, tmp_path / "meminfo") == pytest.approx(1.0)
