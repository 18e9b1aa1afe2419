"""Every warning and failure of `slimclr doctor`, provoked: by commands that a folder on PATH fakes, and by figures."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from slimclr import doctor
from slimclr.cli import main
from slimclr.config import load_config, load_recipes
from slimclr.data.views.recipes import training_views
from slimclr.doctor import cluster, machine, packages
from slimclr.doctor.finding import Answer, ask, probe
from slimclr.errors import UserError
from slimclr.files import sha256

ROOT = Path(__file__).parents[2]
H200 = ["NVIDIA H200", 150_754_820_096, [9, 0]]
TORCH = {"version": "2.13.0+cu130", "reason": None, "driver": "580.65.06", "gpus": [H200, H200], "nccl": "2.29.7"}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes the commands that can be found: the given ones, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(**scripts):
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    return make


# ------------------------------------------------------------------------------------------------- other programs


def test_asking_a_program(commands):
    commands(good="echo a; echo b", bad="echo why >&2; exit 3", slow="exec /bin/sleep 5")
    assert ask(["good"]) == Answer(0, "a\nb\n")
    assert ask(["bad"]).status == 3
    assert ask(["bad"]).last_line == "why"
    assert ask(["nowhere"]) == Answer(None, "nowhere: not found")
    assert "no answer within" in ask(["slow"], timeout=0.1).output


def test_a_probe_that_crashes_is_one_line():
    assert probe(sys.executable, "print('{\"a\": 1}')") == {"a": 1}
    assert probe(sys.executable, "import nowhere_to_be_found") == (
        "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    )
    assert "killed by signal 9" in probe(sys.executable, "import os; os.kill(os.getpid(), 9)")
    assert probe(sys.executable, "print('no JSON')") == "no JSON"


# ------------------------------------------------------------------------------------------------- GPU and torch


@pytest.mark.parametrize(
    ("torch", "devices", "expected", "text"),
    [
        ("No module named 'torch'", 0, "failure", "cannot be imported"),
        (TORCH | {"gpus": []}, 0, "warning", "no NVIDIA GPU here"),
        (
            TORCH | {"gpus": [], "reason": "Torch not compiled with CUDA enabled"},
            1,
            "failure",
            "not compiled with CUDA",
        ),
        (TORCH | {"gpus": [], "reason": "The NVIDIA driver on your system is too old"}, 2, "failure", "is too old"),
        (TORCH | {"gpus": []}, 2, "failure", "2 GPUs, but torch reaches none: none is visible"),
        (
            TORCH | {"gpus": [["Tesla V100", 32e9, [7, 0]]]},
            1,
            "failure",
            "Tesla V100: compute capability 7.0, below 7.5",
        ),
        (TORCH, 2, "ok", "2 x NVIDIA H200, 150.8 GB, compute capability 9.0, driver 580.65.06"),
    ],
)
def test_gpu(torch, devices, expected, text):
    finding = machine.check_gpu(torch, devices)
    assert finding.level == expected
    assert text in finding.text
    assert finding.cure or expected == "ok"


def test_torch_tells_what_the_checks_read():
    told = probe(sys.executable, machine.TORCH)
    assert set(told) == set(TORCH)
    assert machine.check_gpu(told, 1 if told["gpus"] else 0).level in ("ok", "warning")


def test_nccl():
    assert machine.check_nccl(TORCH).level == "ok"
    assert machine.check_nccl(TORCH | {"nccl": None}).level == "failure"
    assert machine.check_nccl(TORCH | {"nccl": None, "gpus": []}).level == "warning"
    assert machine.check_nccl("broken").level == "failure"


# ------------------------------------------------------------------------------------------------- disks, limits


def test_shared_memory(tmp_path):
    assert machine.check_shared_memory(tmp_path, 0, needed=1).level == "ok"
    assert machine.check_shared_memory(tmp_path, 10**9, needed=1).level == "warning"
    assert machine.check_shared_memory(tmp_path, 0, needed=10**18).level == "failure"
    assert "does not exist" in machine.check_shared_memory(tmp_path / "shm", 0).text


def test_shared_memory_of_a_gpu_is_that_of_the_largest_recipe():
    def kept(recipe):
        batch = min(recipe.bn_batch or recipe.batch, recipe.max_batch_per_gpu or recipe.batch, recipe.batch)
        views = training_views(recipe.views, image_size=recipe.image_size, widths=len(recipe.backbone.widths))
        # As torch's loader does it: two batches ahead in every process, and the one in hand.
        ahead = recipe.workers * DataLoader([0], num_workers=1).prefetch_factor + 1
        return ahead * batch * sum(3 * view.size**2 * 4 for view in views)

    recipes = load_recipes(load_config(ROOT / "config/config.yaml"), ROOT).values()
    trained = [recipe.pretrain for recipe in recipes if recipe.pretrain.method.name != "random"]
    assert max(map(kept, trained)) == machine.SHARED_MEMORY_PER_GPU


def test_space_and_inodes(tmp_path, monkeypatch):
    folder = tmp_path / "not/there/yet"

    def statvfs(*, free=100 * 10**9, total_files=10**6, free_files=10**6):
        values = {"f_bavail": free // 4096, "f_frsize": 4096, "f_files": total_files, "f_favail": free_files}
        monkeypatch.setattr(os, "statvfs", lambda _: type("Stat", (), values))
        findings = machine.check_space("data", folder, setting="paths.work", needed=50 * 10**9, inodes=10_000)
        assert all("paths.work" in finding.cure for finding in findings if finding.level != "ok")
        return [finding.level for finding in findings]

    assert statvfs() == ["ok", "ok"]
    assert statvfs(free=10 * 10**9) == ["warning", "ok"]
    assert statvfs(free=10**6) == ["failure", "ok"]
    assert statvfs(free_files=5_000) == ["ok", "warning"]
    assert statvfs(free_files=5) == ["ok", "failure"]
    assert statvfs(total_files=0, free_files=0) == ["ok", "ok"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert statvfs() == ["failure"]


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", "ok"), ("xfs", "ok"), ("tmpfs", "ok"), ("nfs4", "warning"), ("lustre", "warning")]
)
def test_file_system_of_the_lmdbs(commands, tmp_path, kind, expected):
    commands(df=f"printf 'Type Mounted on\\n%-10s/data\\n' '{kind} '")
    finding = machine.check_lmdb(tmp_path / "not/there/yet", copied=False)
    assert finding.level == expected
    assert f"{kind} (mounted at /data)" in finding.text
    assert machine.check_lmdb(tmp_path, copied=True).level == "ok"


def test_file_system_not_known(commands, tmp_path):
    assert machine.check_lmdb(tmp_path, copied=False).level == "warning"


def test_limits():
    def limit(value):
        finding = machine.check_limit("open files", value, (256, 4096), "-n")
        return finding.level, finding.cure

    assert limit(-1) == ("ok", "")
    assert limit(4096) == ("ok", "")
    assert limit(1024) == ("warning", "raise it: ulimit -n 4096")
    assert limit(100)[0] == "failure"


@pytest.mark.parametrize(
    ("off", "expected", "text"),
    [
        (0, "ok", ""),
        (10, "warning", "behind"),
        (-10, "warning", "ahead of"),
        (3600, "failure", "behind"),
        (-3600, "failure", "ahead of"),
    ],
)
def test_clock(tmp_path, off, expected, text):
    finding = machine.check_clock(tmp_path / "new", now=lambda: time.time() + off)
    assert finding.level == expected
    assert text in finding.text
    assert list(tmp_path.iterdir()) == []


def test_clock_that_cannot_be_compared(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "NamedTemporaryFile", refuse)
    assert machine.check_clock(tmp_path).level == "warning"


# ------------------------------------------------------------------------------------------------- Slurm

SINFO = r"printf 'gpu|up|2-00:00:00|gpu:a100:8\ncpu|up|1:00:00|(null)\n'"


NO_PREEMPTION = r"printf 'PreemptMode             = OFF\nPreemptType             = preempt/none\n'"
GPU_JOB = cluster.Job("pretrain", 1440, gpus=True)


def slurm(*jobs):
    return {finding.check: finding.level for finding in cluster.check_slurm(jobs or [GPU_JOB])}


def test_no_slurm(commands):
    assert slurm() == {"slurm": "ok"}


def test_slurm(commands):
    commands(sinfo=SINFO, sacct="exit 0", squeue="exit 0", scontrol=NO_PREEMPTION)
    checks = ("slurm", "slurm gres", "slurm time limits", "slurm preemption", "slurm status")
    assert slurm() == dict.fromkeys(checks, "ok")


def test_slurm_controller_that_does_not_answer(commands):
    commands(sinfo="echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    (finding,) = cluster.check_slurm([])
    assert finding.level == "failure"
    assert "Unable to contact" in finding.text


@pytest.mark.parametrize(
    ("sinfo", "check", "expected"),
    [
        ("printf 'gpu|down|infinite|gpu:8\\n'", "slurm", "failure"),
        ("printf 'cpu|up|infinite|(null)\\n'", "slurm gres", "warning"),
        ("printf 'cpu|up|4:00:00|(null)\\n'", "slurm time limits", "warning"),
        ("printf 'gpu|up|4:00:00|gpu:8\\n'", "slurm time limits", "warning"),
        ("printf 'gpu|up|4:00:00|gpu:8\\nlong|up|2-0|gpu:8\\n'", "slurm time limits", "ok"),
        ("printf 'gpu|up|infinite|gpu:8\\n'", "slurm time limits", "ok"),
    ],
)
def test_slurm_partitions(commands, sinfo, check, expected):
    commands(sinfo=sinfo, sacct="exit 0", squeue="exit 0")
    assert slurm()[check] == expected


@pytest.mark.parametrize(
    ("job", "expected", "text"),
    [
        (GPU_JOB, "warning", "pretrain asks for 1440 minutes, gpu gives 720"),
        (cluster.Job("convert", 1440, gpus=False), "ok", ""),
        (cluster.Job("convert", 1440, gpus=False, partitions=("gpu",)), "warning", "convert asks for 1440 minutes"),
        (cluster.Job("pretrain", 1440, gpus=True, partitions=("gpu", "cpu")), "ok", ""),
        (cluster.Job("pretrain", 720, gpus=True), "ok", ""),
        (cluster.Job("pretrain", 60, gpus=True, partitions=("gone",)), "warning", "pretrain: no partition gone is up"),
    ],
)
def test_slurm_time_limit_is_that_of_the_partitions_that_a_job_may_go_to(commands, job, expected, text):
    commands(sinfo=r"printf 'gpu|up|12:00:00|gpu:a100:8\ncpu|up|infinite|(null)\n'")
    (finding,) = [finding for finding in cluster.check_slurm([job]) if finding.check == "slurm time limits"]
    assert finding.level == expected
    assert text in finding.text
    if "asks for" in text:
        assert f"set-resources in profiles/default/config.yaml: {job.rule}: {{runtime: 720}}" in finding.cure


@pytest.mark.parametrize(
    ("kind", "mode", "partition", "expected", "text"),
    [
        ("preempt/none", "CANCEL", "CANCEL", "ok", "none"),
        ("(null)", "OFF", "OFF", "ok", "none"),
        ("preempt/partition_prio", "REQUEUE", "REQUEUE", "ok", "partition gpu: REQUEUE"),
        ("preempt/partition_prio", "REQUEUE", "GANG,CANCEL", "warning", "partition gpu: PreemptMode=CANCEL"),
        ("preempt/partition_prio", "CANCEL", "REQUEUE", "ok", "partition gpu: REQUEUE"),
        ("preempt/qos", "CANCEL", "REQUEUE", "warning", "the cluster: PreemptMode=CANCEL"),
        ("preempt/qos", "SUSPEND,GANG", "CANCEL", "ok", "the cluster: SUSPEND,GANG"),
    ],
)
def test_slurm_preemption(commands, kind, mode, partition, expected, text):
    shown = f"PartitionName=gpu AllowQos=ALL PreemptMode={partition} State=UP\\n"
    shown += "PartitionName=cpu AllowQos=ALL PreemptMode=CANCEL State=UP\\n"
    config = f"PreemptMode             = {mode}\\nPreemptType             = {kind}\\n"
    commands(sinfo=SINFO, scontrol=f"case $* in *partition) printf '{shown}';; *) printf '{config}';; esac")
    (finding,) = [finding for finding in cluster.check_slurm([GPU_JOB]) if finding.check == "slurm preemption"]
    assert finding.level == expected
    assert finding.text.startswith(text)


def test_slurm_preemption_that_cannot_be_looked_at(commands):
    commands(sinfo=SINFO, scontrol="echo 'Unable to contact slurm controller' >&2; exit 1")
    assert slurm()["slurm preemption"] == "warning"


@pytest.mark.parametrize(("sacct", "squeue", "expected"), [(0, 1, "ok"), (1, 0, "warning"), (1, 1, "failure")])
def test_slurm_state_of_jobs(commands, sacct, squeue, expected):
    commands(sinfo=SINFO, sacct=f"echo accounting is off; exit {sacct}", squeue=f"exit {squeue}")
    assert slurm()["slurm status"] == expected


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("n/a", None),
        ("30", 30),
        ("30:00", 30),
        ("4:00:00", 240),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("2-00:00:00", 2880),
    ],
)
def test_slurm_time_limit(text, minutes):
    assert cluster.slurm_minutes(text) == minutes


def test_what_rules_ask_for(tmp_path):
    assert cluster.read_rules(tmp_path / "none") == []
    (tmp_path / "a.smk").write_text("rule a:\n    resources:\n        runtime=60,\n\n\nrule none:\n    threads: 2\n")
    text = "if CONFIG:\n\n    rule b:\n        resources:\n            gpu=b_gpus,\n"
    (tmp_path / "b.smk").write_text(f"{text}            runtime=lambda wildcards: 90 if long(wildcards) else 30,\n")
    assert cluster.read_rules(tmp_path) == [cluster.Job("a", 60, gpus=False), cluster.Job("b", 90, gpus=True)]
    jobs = {job.rule: job for job in cluster.read_rules(ROOT / "workflow/rules")}
    assert jobs["pretrain"] == GPU_JOB
    assert {rule for rule, job in jobs.items() if job.gpus} == {
        "pretrain",
        "probe",
        "quick_probe",
        "finetune",
        "transfer",
    }
    assert not jobs["convert"].gpus


def test_what_the_users_profile_changes(tmp_path):
    path = tmp_path / "config.yaml"
    jobs = [GPU_JOB, cluster.Job("probe", 1440, gpus=True), cluster.Job("report", 30, gpus=False)]
    assert cluster.with_profile(jobs, path) == jobs
    path.write_text(
        "default-resources: {slurm_partition: 'gpu,long', runtime: 5}\n"
        "set-resources: {pretrain: {runtime: 12h}, probe: {runtime: attempt * 60}, report: {slurm_partition: cpu}}\n"
    )
    assert cluster.with_profile(jobs, path) == [
        cluster.Job("pretrain", 720, gpus=True, partitions=("gpu", "long")),
        cluster.Job("report", 30, gpus=False, partitions=("cpu",)),
    ]
    path.write_text("default-resources:\n# slurm_partition: gpu\n")
    assert cluster.with_profile(jobs, path) == jobs
    for text, message in (("a: [", "not YAML"), ("- a", "must hold keys")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            cluster.with_profile(jobs, path)


def test_a_users_profile_that_cannot_be_read(commands, tmp_path):
    (tmp_path / "profiles/default").mkdir(parents=True)
    (tmp_path / "profiles/default/config.yaml").write_text("a: [")
    first, *others = doctor._slurm(tmp_path)
    assert (first.check, first.level) == ("profile", "failure")
    assert [finding.check for finding in others] == ["slurm"]


# ------------------------------------------------------------------------------------------------- apptainer and images


def apptainer(namespaces=1000, root=False):
    return cluster.check_apptainer(namespaces=namespaces, root=root).level


def test_apptainer(commands):
    assert apptainer() == "warning"
    commands(singularity="echo singularity-ce version 4.1.0")
    assert apptainer() == "ok"
    commands(apptainer="echo apptainer version 1.4.5")
    assert apptainer() == "ok"
    assert apptainer(namespaces=0) == "warning"
    assert apptainer(namespaces=0, root=True) == "ok"
    commands(apptainer="echo apptainer version 0.9.1")
    assert apptainer() == "failure"
    commands(apptainer="echo broken; exit 1")
    assert apptainer() == "failure"


def test_images(tmp_path):
    def image(**entry):
        return cluster.check_image("train", {"sif": "train.sif"} | entry, tmp_path).level

    somewhere, digest = "registry.example/slimclr-train", "sha256:" + "0" * 64
    assert image() == "warning"  # no file
    assert image(reference=somewhere) == "warning"
    (tmp_path / "train.sif").write_bytes(b"image")
    assert image() == "warning"  # no digest
    assert image(reference=somewhere) == "warning"
    assert image(digest="sha256:invented") == "failure"
    assert image(digest=digest) == "failure"  # another file
    assert image(digest=f"sha256:{sha256(tmp_path / 'train.sif')}") == "ok"
    assert image(digest=digest, reference=somewhere) == "ok"


# ------------------------------------------------------------------------------------------------- packages


def python(tmp_path, script):
    """A make-believe interpreter."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_mmcv(tmp_path):
    def mmcv(broken):
        found = json.dumps({"version": "2.3.6", "devices": ["cpu", "cuda"], "broken": broken})
        return packages.check_mmcv(python(tmp_path, f"echo '{found}'")).level

    assert packages.check_mmcv(None).level == "warning"
    assert packages.check_mmcv(python(tmp_path, "echo undefined symbol; exit 1")).level == "failure"
    assert mmcv({"cuda": "roi_align_forward_impl: implementation for device cuda:0 not found"}) == "failure"
    assert mmcv({}) == "ok"


def test_what_computes_something(tmp_path):
    good, bad = python(tmp_path, 'echo \'{"version": "1"}\''), sys.executable + "-that-is-not-there"
    for check, level in (("dali", "warning"), ("torch", "failure")):
        assert packages.check_works(check, good).level == "ok"
        assert packages.check_works(check, bad).level == level


def test_imports():
    assert packages.check_imports(sys.executable, ("json", "yaml")).level == "ok"
    finding = packages.check_imports(sys.executable, ("json", "nowhere_to_be_found"))
    assert finding.level == "failure"
    assert "nowhere_to_be_found: ModuleNotFoundError" in finding.text
    assert packages.check_imports(sys.executable + "-gone", ()).level == "failure"


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def quick(monkeypatch, commands):
    """No environment is probed, and this machine's programs are not asked."""
    monkeypatch.setattr(doctor, "probe", lambda *_: TORCH | {"gpus": []})
    monkeypatch.setattr(doctor, "gpu_count", lambda: 0)
    monkeypatch.setattr(packages, "probe", lambda *_: {"version": "1", "devices": ["cpu"], "broken": {}})


def unwritable(monkeypatch, folder):
    """Also for root, who may write everywhere."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))


@pytest.mark.parametrize("name", ["mine", "mine/new"])
def test_scratch_that_cannot_be_written_is_named(quick, capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    unwritable(monkeypatch, tmp_path / "mine")
    main(["doctor", "--config", str(ROOT / "config/demo.yaml"), "--scratch", str(tmp_path / name)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\w+ +scratch ", line)]
    assert line.startswith("failure")
    assert "not writable -> name a folder that you may write: --scratch" in line


def test_no_failure_here_with_the_demo(quick, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status = main(["doctor", "--json", "--config", str(ROOT / "config/demo.yaml"), "--scratch", str(tmp_path)])
    document = json.loads(capsys.readouterr().out)
    failures = [finding for finding in document["findings"] if finding["level"] == "failure"]
    assert status == (1 if failures else 0)
    checks = {finding["check"] for finding in document["findings"]}
    wanted = {"gpu", "nccl", "shared memory", "data", "data inodes", "scratch", "scratch inodes", "lmdb"}
    wanted |= {"open files", "processes", "slurm", "apptainer", "image train", "mmcv ops", "dali", "clock"}
    assert wanted <= checks
    for finding in document["findings"]:
        assert finding["cure"] or finding["level"] == "ok", finding


def test_a_failure_gives_exit_status_1_and_one_line(quick, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("rnus: []\n")
    assert main(["doctor", "--config", "config.yaml", "--scratch", "gone"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("failure  config") and "rnus" in line for line in lines)
    assert any(re.match(r"(ok|warning) +scratch +gone: .* free", line) for line in lines)  # jobs make it
    assert "failures" in lines[-1]


@pytest.mark.parametrize(
    ("scratch", "line"),
    [
        ("$NODE_DISK", r"(ok|warning)  +scratch  +.*free"),
        ("$NODE_DISK/new", r"(ok|warning)  +scratch  +.*/new: .*free"),
        (
            "$NODE_DISK/no/new",
            r"warning  +scratch  +paths.scratch: .*/new is not on this machine -> run this on a node",
        ),
        ("$NOT_SET", r"warning  +scratch  +paths.scratch: \$NOT_SET is not on this machine -> run this on a node"),
    ],
)
def test_scratch_is_what_the_config_names(quick, capsys, monkeypatch, tmp_path, scratch, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "no").mkdir()
    unwritable(monkeypatch, tmp_path / "no")
    config = {
        "paths": {"raw": "raw", "work": ".", "scratch": scratch},
        "miniature": {"seed": 0},
        "runs": ["random_resnet50"],
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config | {"imagenet": {"expect": "subset"}}))
    main(["doctor", "--config", "config.yaml"])
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(line, one) for one in lines), lines


def test_an_image_that_there_is_not(capsys):
    assert main(["doctor", "--image", "nowhere"]) == 2
    assert "not one of train, detection, recordio" in capsys.readouterr().err


def test_it_starts_without_torch_numpy_and_mxnet():
    code = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'mxnet', 'pandas', 'mmcv', 'snakemake')))\n"
    code += "import slimclr.cli, slimclr.doctor"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
