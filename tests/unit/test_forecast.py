"""`slimclr plan`: arithmetic from stated rates, real steps of a small network, Snakemake's jobs, the largest batch."""

import json
import time
from pathlib import Path

import pytest
import yaml

from slimclr import plan
from slimclr.cli import main
from slimclr.config import Config, Pretrain, Recipe, dump, fingerprint
from slimclr.engine.run_folder import open_folder
from slimclr.errors import UserError
from slimclr.plan import records, sizes
from slimclr.plan.forecast import forecast, requeues_of, schedule
from slimclr.plan.jobs import Job, JobForecast, Machine, parse_dry_run, planned_jobs, read_profile
from slimclr.plan.largest import advice
from slimclr.plan.measure import Measuring
from slimclr.plan.rates import DataSet, Rate, Rates, merge, read_rates, write_rates
from slimclr.plan.trial import Trials, photo, spread
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
    "jobs": {
        "pretrain": {"start_s": 10, "images_per_s": 100, "full_width_images_per_s": 400, "memory_gb": 3},
        "probe": {"start_s": 5, "images_per_s": 1000, "evaluation_images_per_s": 500},
        "extract_train": {"images_per_s": 500},
        "report": {"seconds": 1},
    },
    "data_set": {"train_images": 32_010, "val_images": 1_000, "train_mb": 3200, "val_mb": 100},
}


def forecast_of(jobs, machine=CLUSTER, rates=RATES, pretrain=SIMCLR, **options):
    config = Config(runs=("small",), imagenet={"keep_folder": False})
    recipes = {"small": Recipe(pretrain=pretrain, probe=PROBE)}
    result = forecast(jobs, config, recipes, Rates.model_validate(rates), machine, **options)
    return result, {entry.job.name: entry for entry in result.jobs}


# ------------------------------------------------------------------------------------------------- the arithmetic


def test_quick_probes_look_at_every_image_once_and_keep_its_features():
    jobs = [*pipeline(), job("quick_probe", ["pretrain small"], "small")]
    rates = RATES | {"jobs": RATES["jobs"] | {"quick_probe": {"start_s": 7, "evaluation_images_per_s": 250}}}
    _, entries = forecast_of(jobs, rates=rates)
    quick = entries["quick_probe small"]
    assert quick.stage == "quick"
    assert quick.seconds == pytest.approx(7 + 33_010 / 250)
    # resnet14w8 has 256 features at width 1.0, 128 at 0.5, of four bytes.
    assert quick.disk_gb == pytest.approx(33_010 * 384 * 4 / 1e9)


def test_fine_tuning_passes_over_the_images_with_labels():
    tuned = {"epochs": 4, "batch": 32, "labels": 0.1, "optimizer": {"lr": 0.1}}
    recipes = {"small": Recipe(pretrain=SIMCLR, probe=PROBE, finetune=tuned)}
    rates = Rates.model_validate(
        RATES | {"jobs": {"finetune": {"images_per_s": 100, "evaluation_images_per_s": 500, "checkpoint_gb": 0.5}}}
    )
    (entry,) = forecast([job("finetune", run="small")], Config(runs=("small",)), recipes, rates, CLUSTER).jobs
    assert entry.seconds == pytest.approx(4 * (3201 // 32 * 32) / 100 + 1000 / 500)
    assert entry.disk_gb == pytest.approx(3 * 0.5)


def test_hours_follow_from_the_recipe_and_stated_rates():
    result, entries = forecast_of(pipeline(gpu=2))
    # 1000 batches of 32, half of each on one GPU; one epoch before slow start and one after.
    pretraining = 10 + 16_000 / 400 + 16_000 / 100
    probing = 5 + 3 * 16_000 / 1000 + 500 / 500
    assert entries["extract_train"].seconds == pytest.approx(64.02)
    assert entries["pretrain small"].seconds == pytest.approx(pretraining)
    assert entries["pretrain small"].gpu_hours == pytest.approx(2 * pretraining / 3600)
    assert entries["probe small"].seconds == pytest.approx(probing)
    assert entries["pretrain small"].memory_gb == 6
    assert result.seconds == pytest.approx(64.02 + pretraining + probing + 1)
    assert result.unknown == ["extract_val"]


def test_what_no_rate_says_is_unknown_and_named():
    jobs = {key: value for key, value in RATES["jobs"].items() if key != "probe"}
    rates = RATES | {"jobs": jobs}
    result, entries = forecast_of(pipeline(gpu=2), rates=rates)
    assert entries["probe small"].seconds is None
    assert entries["probe small"].gpu_hours is None
    assert result.unknown == ["extract_val", "probe small"]


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


def spans_of(machine, *tasks):
    """Begin and end of jobs, of which seconds, needs, GPUs and cores are given."""
    entries = [
        JobForecast(job(name, needs, gpu=gpus), name, seconds, cores) for name, needs, seconds, gpus, cores in tasks
    ]
    return {entry.job.name: (entry.begin, entry.end) for entry in schedule(entries, machine)}


def test_jobs_wait_for_what_they_need_and_for_room():
    tasks = [("a", (), 10, 0, 1), ("b", ("a",), 5, 0, 1), ("c", (), 4, 1, 1), ("d", (), 6, 1, 1)]
    spans = spans_of(Machine("m", False, 2, 1, None, 0), *tasks)
    assert spans["b"] == (10, 15)
    # One GPU: the longer one first.
    assert spans["d"] == (0, 6)
    assert spans["c"] == (6, 10)
    one_at_a_time = spans_of(Machine("m", False, 2, None, 1, 0), *tasks)
    assert max(end for _, end in one_at_a_time.values()) == 25


def test_a_network_of_one_width_has_the_full_widths_rate():
    changes = {"backbone": RECIPE["backbone"] | {"widths": [1.0]}, "slow_start_epoch": 0, "loss_weights": "equal"}
    one = Pretrain.model_validate(dump(SIMCLR) | changes | {"distillation": None})
    seconds = forecast_of(pipeline(), pretrain=one)[1]["pretrain small"].seconds
    assert seconds == pytest.approx(10 + 2 * 32_000 / 400)


def test_jobs_that_share_cores_slow_each_other_down():
    tasks = [("a", (), 10, 0, 2.0), ("b", (), 10, 0, 2.0)]
    assert {end for _, end in spans_of(LAPTOP, *tasks).values()} == {20}
    assert {end for _, end in spans_of(CLUSTER, *tasks).values()} == {10}
    # When the short one has ended, the long one has the machine to itself.
    spans = spans_of(LAPTOP, ("a", (), 10, 0, 2.0), ("b", (), 5, 0, 2.0))
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
    benchmark: benchmarks/pretrain/a.tsv
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
    assert second.benchmark == "benchmarks/pretrain/a.tsv"
    assert (second.gpus, second.processes, second.cpus, second.number("runtime")) == (8, 8, 32, 1440)


def test_the_demos_jobs_are_those_of_snakemake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, machine = read_profile("local", ROOT)
    config = ROOT / "config/demo.yaml"
    jobs, _ = planned_jobs(["all"], config=config, profile=folder, machine=machine, root=ROOT, gpus=0)
    by_name = {job.name: job for job in jobs}
    runs = [
        f"{rule} {run}"
        for rule in ("pretrain", "probe", "quick_probe", "transfer", "measure_latency")
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
        ("jobs: {pretrain: {image_per_s: 3}}", "unknown key (did you mean 'images_per_s'?)"),
        ("jobs: {probe a: {seconds: -1}}", "jobs.probe a.seconds: Input should be greater than 0, but it is -1"),
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
        jobs={"probe a": Rate(seconds=1), "probe b": Rate(seconds=2), "pretrain a": Rate(seconds=3)},
        data_set=DataSet(train_images=5, val_images=6),
    )
    stated = Rates(jobs={"probe a": Rate(seconds=9), "pretrain": Rate(seconds=8)}, data_set=DataSet(train_images=7))
    both = merge(stated, measured)
    # What is stated of a rule holds for all of its jobs.
    assert {name: rate.seconds for name, rate in both.jobs.items()} == {"probe a": 9, "probe b": 2, "pretrain": 8}
    assert (both.data_set.train_images, both.data_set.val_images) == (7, 6)


# ------------------------------------------------------------------------------------------------- the command


def test_json_and_table_of_stated_rates(tmp_path, monkeypatch, capsys):
    jobs = [
        job("pretrain", run="demo_slimclr_simclr"),
        job("transfer", ["pretrain demo_slimclr_simclr"], "demo_slimclr_simclr"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "planned_jobs", lambda *_, **__: (jobs, 1.0))
    rates = {"jobs": {"pretrain": {"images_per_s": 100}, "pretrain elsewhere": {"images_per_s": 1}}}
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(rates))
    command = ["plan", "--config", str(ROOT / "config/demo.yaml"), "--rates", "rates.yaml", "--no-measure"]
    assert main([*command, "--json", "--write-rates", "used.yaml"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    # 24 epochs of 18 batches of 64.
    assert document["jobs"][0]["seconds"] == pytest.approx(24 * 18 * 64 / 100)
    assert document["totals"]["without_time"] == ["transfer demo_slimclr_simclr"]
    assert any("elsewhere is no job of this config" in note for note in document["notes"])
    assert read_rates(tmp_path / "used.yaml").data_set.train_images == 1200
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["pretrain", "1"] and "4.6 min" in line for line in lines)
    assert any(line.startswith("times: without transfer demo_slimclr_simclr") for line in lines)


# ------------------------------------------------------------------------------------------------- disk


def test_disk_is_that_of_the_archives_bytes_and_of_checkpoints():
    data = DataSet(train_images=1000, train_mb=100)
    assert sizes.split_disk(data, "train", "lmdb") == pytest.approx(0.1, rel=0.03)
    assert sizes.split_disk(DataSet(), "train", "lmdb") is None
    rates = Rates.model_validate(RATES | {"jobs": {"pretrain": {"images_per_s": 1, "checkpoint_gb": 0.5}}})
    for every, checkpoints in ((None, 3), (1, 5)):
        recipe = SIMCLR.model_copy(update={"keep_every_epochs": every})
        entries = forecast_of(pipeline(), rates=rates, pretrain=recipe)[1]
        # The newest two, the one that is being written, and of two epochs those that are kept.
        assert entries["pretrain small"].disk_gb == pytest.approx(0.5 * checkpoints)
    assert entries["probe small"].disk_gb is None


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


# ------------------------------------------------------------------------------------------------- earlier jobs


def benchmarked(folder, run="small"):
    """A finished probe with the benchmark file that Snakemake writes."""
    results, file = folder / "probe/metrics.json", folder / f"{run}.tsv"
    results.parent.mkdir()
    results.write_text(json.dumps({"recipe_sha256": fingerprint(Recipe(pretrain=SIMCLR, probe=PROBE).probe)}))
    file.write_text("s\th:m:s\tmax_rss\tmax_pss\tmean_load\tcpu_time\n90.5\t0:01:30\t900\t800.00\t150.00\t9\n")
    return Job("probe", f"probe {run}", {"run": run}, (str(results),), (), 1, {}, str(file))


def test_a_finished_job_takes_what_it_took(tmp_path):
    done, config = benchmarked(tmp_path), Config(runs=("small",), paths={"work": str(tmp_path)})
    recipes = {"small": Recipe(pretrain=SIMCLR, probe=PROBE)}
    rate = records.recorded([done], config, recipes).jobs["probe small"]
    assert (rate.seconds, rate.memory_gb, rate.cores) == (90.5, 0.8, 1.5)
    # With another recipe it says nothing.
    other = {"small": Recipe(pretrain=SIMCLR, probe=PROBE | {"epochs": 4})}
    assert records.recorded([done], config, other).jobs == {}


def test_a_pretraining_that_has_begun_tells_its_rate(tmp_path):
    base = tmp_path / "checkpoints/pretrain/small"
    with open_folder(base, SIMCLR, part="seed0", inputs={"train_images": "a" * 64}, main=True) as folder:
        pass
    widths = {str(width): {} for width in SIMCLR.backbone.widths}
    lines = [
        {"step": 10, "widths": {"1.0": {}}, "images_per_s": 800},
        {"step": 20, "widths": widths, "images_per_s": 200},
        {"step": 20, "knn": {}},
        {"step": 30, "widths": widths, "images_per_s": 100},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "step_00000030.pt").write_bytes(b"x" * 1000)
    config = Config(runs=("small",), paths={"work": str(tmp_path)})
    recipes = {"small": Recipe(pretrain=SIMCLR, probe=PROBE)}
    rate = records.recorded([job("pretrain", run="small", gpu=2)], config, recipes).jobs["pretrain small"]
    # Of each of two GPUs; as many images at half the speed.
    assert rate.full_width_images_per_s == pytest.approx(400)
    assert rate.images_per_s == pytest.approx(2 / (1 / 200 + 1 / 100) / 2)
    assert rate.checkpoint_gb == pytest.approx(1e-6)


# ------------------------------------------------------------------------------------------------- measuring


@pytest.mark.slow
def test_short_real_runs_of_a_small_network_and_of_its_probe(tmp_path):
    jobs = [job("pretrain", run="small"), job("probe", ["pretrain small"], "small")]
    recipes = {"small": Recipe(pretrain=SIMCLR, probe=PROBE)}
    measuring = Measuring(jobs, Config(runs=("small",)), recipes, Rates(), Trials(tmp_path, ROOT))
    measuring._photos = [photo(tmp_path / "photo.JPEG", 64, 48)]
    began = time.monotonic()
    for one in jobs:
        measuring._train(one)
    passed = time.monotonic() - began
    pretrain, probe = measuring.rates["pretrain small"], measuring.rates["probe small"]
    measuring._quick(job("quick_probe", run="small"))
    assert measuring.rates["quick_probe small"].evaluation_images_per_s == probe.evaluation_images_per_s
    assert pretrain.full_width_images_per_s > 0
    assert probe.evaluation_images_per_s > 0
    for rate in (pretrain, probe):
        assert 0 < 12 * 32 / rate.images_per_s < passed
        assert 0 < rate.start_s < passed
        assert 0.05 < rate.memory_gb < 10
        assert rate.checkpoint_gb > 0


@pytest.mark.slow
def test_extraction_and_conversion_of_photos_of_imagenets_size(tmp_path):
    jobs = [job("extract_train"), job("extract_val"), job("convert")]
    measuring = Measuring(jobs, Config(runs=("small",)), {}, Rates(), Trials(tmp_path, ROOT))
    rates = measuring.all()
    assert measuring.notes == []
    assert set(rates.jobs) == {"extract_train", "extract_val", "convert"}
    assert all(rate.images_per_s > 1 and rate.start_s > 0 for rate in rates.jobs.values())


def test_a_step_that_would_take_minutes_on_a_cpu_is_not_measured(tmp_path):
    large = Recipe(pretrain=SIMCLR.model_copy(update={"image_size": 224}), probe=PROBE)
    config = Config(runs=("small",))
    measuring = Measuring([job("pretrain", run="small")], config, {"small": large}, Rates(), Trials(tmp_path, ROOT))
    measuring._photos = [photo(tmp_path / "photo.JPEG", 64, 48)]
    with pytest.raises(UserError, match="a step would take minutes without a GPU"):
        measuring._train(job("pretrain", run="small"))
    with pytest.raises(UserError, match="it has 2 GPUs, this machine has none"):
        measuring._train(job("pretrain", run="small", gpu=2))


def test_photos_of_imagenets_size(tmp_path):
    path = photo(tmp_path / "photo.JPEG", 500, 375)
    assert path.stat().st_size == pytest.approx(115_000, rel=0.05)
    folder = spread([path], tmp_path / "images", count=5, classes=["a", "b"])
    assert sorted(str(one.relative_to(folder)) for one in folder.glob("*/*"))[:2] == ["a/a_0.JPEG", "a/a_2.JPEG"]


def test_a_trial_that_fails_is_one_line(tmp_path):
    run = Trials(tmp_path, ROOT)
    with pytest.raises(
        UserError, match=r"x/manifest\.parquet: no readable manifest .* run the extract stage again"
    ) as raised:
        run("convert", "--folder", tmp_path / "x", "--out", tmp_path / "x.lmdb")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"not installed; run make \.venvs/nowhere"):
        run("recordio", environment="nowhere")


# ------------------------------------------------------------------------------------------------- the largest batch


def memory(recipe, batch):
    """GB of a GPU on which 10 GB are free."""
    per_image = 0.25 if recipe.activation_checkpointing else 1.0
    return 2 + per_image * batch if per_image * batch <= 10 else None


def test_advice_on_a_gpu_where_the_batch_does_not_fit():
    first, own, smaller, saving = advice(SIMCLR, 1, memory)
    assert "fits on one GPU: 8 (10.0 GB)" in first
    assert "the recipe's batch, 32 of 32" in own
    assert own.endswith("does not fit")
    assert smaller.startswith("set max_batch_per_gpu: 8")
    assert saving.endswith("fits")


def test_the_largest_batch_is_sought_among_those_that_the_method_can_work_with():
    method = {"name": "mocov2", "dim": 16, "queue": 192}
    moco = Pretrain.model_validate(RECIPE | {"method": method, "bn_batch": 16})
    tried = []
    first, own = advice(moco, 1, lambda _, batch: tried.append(batch) or batch / 100)
    # 128 does not divide the queue.
    assert tried == [16, 32, 64]
    assert "fits on one GPU: 64" in first
    assert own.endswith("takes 0.2 GB")
    with pytest.raises(UserError, match="not even 1 images fit on this GPU"):
        advice(moco, 1, lambda *_: None)
