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
from slimclr.doctor.finding import Answer, Finding, ask, probe
from slimclr.errors import UserError
from slimclr.files import sha256

ROOT = Path(__file__).parents[2]
TORCH = {"version": "2.13.0+cu130", "cuda": "13.0", "available": True, "gpus": 2, "nccl": "2.29.7"}
H200 = "NVIDIA H200, 580.65.06, 143771 MiB, 9.0"


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
    ("script", "devices", "expected", "text"),
    [
        (None, 0, "warning", "no NVIDIA GPU here"),
        (None, 2, "warning", "2 GPUs, but nvidia-smi: not found"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", 1, "failure", "mismatch"),
        ("echo 'No devices were found'", 0, "failure", "no GPU"),
        ("echo 'Tesla V100-SXM2-32GB, 580.65.06, 32768 MiB, 7.0'", 1, "failure", "below 7.5"),
        (f"echo '{H200}'; echo '{H200}'", 2, "ok", "2 x NVIDIA H200"),
    ],
)
def test_gpu(commands, script, devices, expected, text):
    if script:
        commands(**{"nvidia-smi": script})
    finding = machine.check_gpu(devices)
    assert finding.level == expected
    assert text in finding.text


def test_cuda_of_the_driver(commands):
    assert machine.driver_cuda() is None
    commands(**{"nvidia-smi": "echo '| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0  |'"})
    assert machine.driver_cuda() == "13.0"


@pytest.mark.parametrize(
    ("torch", "driver", "devices", "expected", "text"),
    [
        ("No module named 'torch'", None, 0, "failure", "cannot be imported"),
        (TORCH | {"cuda": None, "available": False}, "13.0", 1, "failure", "CPU only"),
        (TORCH | {"cuda": None, "available": False}, None, 0, "ok", "CPU only"),
        (TORCH | {"available": False}, "12.8", 1, "failure", "supports CUDA 12.8 at most"),
        (TORCH | {"available": False}, "13.0", 1, "failure", "reaches no GPU"),
        (TORCH | {"available": False}, None, 0, "ok", "no GPU here"),
        (TORCH, "13.1", 2, "ok", "2 GPUs usable"),
    ],
)
def test_cuda(torch, driver, devices, expected, text):
    finding = machine.check_cuda(torch, driver, devices)
    assert finding.level == expected
    assert text in finding.text


def test_nccl():
    assert machine.check_nccl(TORCH).level == "ok"
    assert machine.check_nccl(TORCH | {"nccl": None}).level == "failure"
    assert machine.check_nccl(TORCH | {"nccl": None, "gpus": 0}).level == "warning"
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


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/export /data nfs4 rw 0 0
/dev/nvme0n1 /data/local\\040disk xfs rw 0 0
/dev/sdb1 /twice ext4 rw 0 0
o2ib:/x /twice lustre rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("/home/me/data", "ext4", "ok"),
        ("/data/imagenet", "nfs4", "warning"),
        ("/database", "ext4", "ok"),
        ("/data/local disk/imagenet", "xfs", "ok"),
        ("/twice/x", "lustre", "warning"),
        ("/dev/shm/x", "tmpfs", "ok"),
    ],
)
def test_file_system_of_the_lmdbs(path, kind, expected):
    assert machine.file_system(Path(path), MOUNTS)[0] == kind
    assert machine.check_lmdb_file_system(Path(path), MOUNTS).level == expected
    assert machine.check_lmdb_file_system(Path(path), MOUNTS, copied=True).level == "ok"


def test_file_system_not_known():
    assert machine.check_lmdb_file_system(Path("/data"), "").level == "warning"


def test_limits():
    def limit(value):
        finding = machine.check_limit("open files", value, needed=256, wanted=4096, option="-n")
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
    assert {rule for rule, job in jobs.items() if job.gpus} == {"pretrain", "probe", "transfer"}
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


def apptainer(devices=0, namespaces=1000, root=False):
    return [finding.level for finding in cluster.check_apptainer(devices=devices, namespaces=namespaces, root=root)]


def test_apptainer(commands):
    assert apptainer() == ["warning"]
    commands(singularity="echo singularity-ce version 4.1.0")
    assert apptainer() == ["ok", "ok"]
    commands(apptainer="echo apptainer version 1.4.5")
    assert apptainer() == ["ok", "ok"]
    assert apptainer(namespaces=0) == ["warning", "ok"]
    assert apptainer(namespaces=0, root=True) == ["ok", "ok"]
    commands(ldconfig="echo libcuda.so.1")
    assert apptainer(devices=1) == ["ok", "ok"]
    commands(ldconfig="echo libc.so.6")
    assert apptainer(devices=1) == ["ok", "warning"]
    commands(apptainer="echo apptainer version 0.9.1")
    assert apptainer() == ["failure"]
    commands(apptainer="echo broken; exit 1")
    assert apptainer() == ["failure"]


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


def test_starting_an_image(commands):
    commands(apptainer="echo 'FATAL: no user namespaces' >&2; exit 255")
    finding = cluster.check_start(Path("x.sif"))
    assert finding.level == "failure"
    assert "no user namespaces" in finding.text
    commands(apptainer="exit 0")
    assert cluster.check_start(Path("x.sif")).level == "ok"


def test_the_file_that_names_images(tmp_path):
    names = cluster.read_images(ROOT / "containers/images.yaml")
    assert set(names) == set(packages.MODULES)
    with pytest.raises(UserError, match="no such file"):
        cluster.read_images(tmp_path / "images.yaml")
    (tmp_path / "images.yaml").write_text("- a list\n")
    with pytest.raises(UserError, match="must name images"):
        cluster.read_images(tmp_path / "images.yaml")


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
    assert packages.check_dali(good).level == "ok"
    assert packages.check_dali(bad).level == "warning"
    assert packages.check_convolution(good).level == "ok"
    assert packages.check_convolution(bad).level == "failure"
    assert packages.check_record(good).level == "ok"
    assert packages.check_record(bad).level == "failure"


def test_imports():
    assert packages.check_imports(sys.executable, ("json", "yaml")).level == "ok"
    finding = packages.check_imports(sys.executable, ("json", "nowhere_to_be_found"))
    assert finding.level == "failure"
    assert "nowhere_to_be_found: ModuleNotFoundError" in finding.text
    assert packages.check_imports(sys.executable + "-gone", ()).level == "failure"


LOCK = """\
# made by a tool
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:0
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:1
Some.Package==1.0 \\
    --hash=sha256:2
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:3
"""


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"numpy": "2.4.6", "some-package": "1.0"}, "2 packages as locked"),
        ({"numpy": "2.5.5", "some-package": "1.0", "slimclr": "0.1"}, "2 packages as locked"),
        ({"numpy": "1.0", "some-package": "1.0"}, "numpy 1.0 instead of 2.4.6 or 2.5.5"),
        ({"numpy": "2.4.6"}, "some-package is missing instead of 1.0"),
        ({"numpy": "2.4.6", "some-package": "1.0", "leftpad": "1"}, "leftpad 1 is not in it"),
    ],
)
def test_versions_against_the_lock(installed, expected):
    finding = packages.check_versions(LOCK, installed)
    assert finding.text == expected
    assert finding.level == ("ok" if "as locked" in expected else "failure")


def test_compilers(commands):
    assert packages.check_compilers().level == "ok"
    commands(gcc="exit 0")
    assert packages.check_compilers() == Finding(
        "size", "warning", "left in the image: gcc", "compile in the build stage only"
    )


def test_an_image_without_its_lock(tmp_path):
    first, *_ = packages.check_environment("recordio", python=python(tmp_path, "exit 1"), lock=tmp_path / "x.lock")
    assert first.level == "failure"


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def quick(monkeypatch, commands):
    """No environment is probed, and this machine's programs are not asked."""
    monkeypatch.setattr(doctor, "probe", lambda *_: TORCH | {"available": False, "gpus": 0})
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
    wanted = {"gpu", "cuda", "nccl", "shared memory", "data", "data inodes", "scratch", "scratch inodes", "lmdb"}
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
