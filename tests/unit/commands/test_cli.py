"""What the command line says in one line, instead of a traceback."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import slimclr.data.stores.verify

# The user without rights may not read our home, where what is imported late could lie.
import slimclr.miniature.write
import slimclr.stages.data
import slimclr.stages.pretrain
from slimclr.cli import main
from slimclr.config import Detection, Pretrain, Probe, parse_section
from slimclr.data.manifest import MANIFEST, Record, write_manifest
from slimclr.errors import UserError
from slimclr.nn.weights import save_weights

BACKBONE = {"depth": 14, "base_width": 16, "widths": [1.0]}
DRAWN = json.dumps({"method": {"name": "random"}, "backbone": BACKBONE, "epochs": 0, "image_size": 32})
TRAINED = json.dumps(
    {
        "method": {"name": "supervised"},
        "epochs": 1,
        "views": "normal",
        "bn_batch": 1024,
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
)


def lines_of(command, capfd):
    """Exit code and what was printed on stderr."""
    capfd.readouterr()
    code = main([str(word) for word in command])
    return code, capfd.readouterr().err.splitlines()


def fill(folder):
    """Leave no byte free."""
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("name", ["data_report.json", "manifest.parquet"])
def test_a_disk_that_is_full_after_the_images(small_disk, tmp_path, monkeypatch, capfd, name):
    disk, _ = small_disk
    stage, out = slimclr.stages.data, disk / "val"
    if name == "data_report.json":
        monkeypatch.setattr(stage.os, "sync", lambda: fill(disk))
    else:
        write_report = stage.write_report
        monkeypatch.setattr(stage, "write_report", lambda *args: (write_report(*args), fill(disk))[0])
    (tmp_path / "sorted/n1").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "sorted/n1/a.JPEG")
    command = ["extract", "--split", "val", "--archive", tmp_path / "sorted", "--expect", "subset", "--out", out]
    code, lines = lines_of(command, capfd)
    expected = f"slimclr extract: error: {out}/{name}: No space left on device; free space and run this stage again"
    assert (code, lines[-1]) == (2, expected)
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_without_a_name(monkeypatch, capfd, code):
    """As writing an open file fails, for instance metrics.jsonl."""

    def fail(**_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(slimclr.stages.data, "convert", fail)
    expected = f"slimclr convert: error: /w/a.lmdb: {os.strerror(code)}; free space and run this stage again"
    assert lines_of(["convert", "--folder", "/a", "--out", "/w/a.lmdb"], capfd) == (2, [expected])


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), OSError("of a library")])
def test_an_error_that_names_nothing_keeps_its_traceback(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(slimclr.stages.data, "convert", fail)
    with pytest.raises(OSError, match=str(error.args[-1])):
        main(["convert", "--folder", "/a", "--out", "/w/a.lmdb"])


def test_weights_that_the_disk_has_no_room_for(small_disk):
    disk, _ = small_disk
    with pytest.raises(UserError, match=r"w.safetensors: not written \(.*No space left.*\); free space, or mend"):
        save_weights(disk / "w.safetensors", {"a": torch.zeros(1_000_000)}, {})
    assert list(disk.iterdir()) == []


@pytest.fixture
def data(open_folder):
    """A folder of one class with one photo, its manifest, and RecordIO's three files, not of much use."""
    (open_folder / "train/n1").mkdir(parents=True)
    photo = open_folder / "train/n1/a.JPEG"
    Image.new("RGB", (8, 8)).save(photo)
    record = Record("n1/a.JPEG", "n1", photo.stat().st_size, 8, 8, "RGB", "JPEG", "0" * 40, 1, 0)
    write_manifest([record], open_folder / "train" / MANIFEST)
    for suffix in (".rec", ".idx", ".lst"):
        (open_folder / f"train{suffix}").write_bytes(b"")
    return open_folder


@pytest.mark.parametrize(
    ("command", "closed", "names"),
    [
        (["verify", "train"], "train/n1", "train/n1"),
        (["verify", "train.rec"], "train.lst", "train.lst"),
        (["convert", "--folder", "train", "--out", "out/a.lmdb"], None, "out"),
        (["miniature", "--out", "out/miniature"], None, "out"),
        (
            [
                "extract",
                "--split",
                "val",
                "--archive",
                "train",
                "--expect",
                "subset",
                "--jobs",
                "1",
                "--out",
                "out/val",
            ],
            None,
            "out",
        ),
        (
            ["pretrain", "--recipe", DRAWN, "--name", "r", "--out", "out/r", "--checkpoints", "out/checkpoints"],
            None,
            "out",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_what_the_user_may_not_read_or_write(data, as_nobody, capfd, monkeypatch, command, closed, names):
    monkeypatch.chdir(data)
    if closed:
        (data / closed).chmod(0o000)
    code, lines = as_nobody(lambda: lines_of(command, capfd))
    if closed:
        (data / closed).chmod(0o755)
    assert code == 2
    (line,) = lines
    assert line.startswith(f"slimclr {command[0]}: error: {names}")
    assert "Permission denied; " in line


@pytest.mark.parametrize(
    ("text", "cause"),
    [("{", "JSONDecodeError"), ("{}", "KeyError: 'config'"), ("[]", "TypeError"), ('{"config": 1}', "ValidationError")],
)
def test_a_report_of_no_config(tmp_path, capfd, text, cause):
    command = ["report", "--config", text, "--results", tmp_path, "--references", tmp_path, "--out", tmp_path]
    code, (line,) = lines_of(command, capfd)
    assert code == 2
    assert line.startswith(f"slimclr report: error: --config: not JSON with a valid config, recipes and name ({cause}")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["recipe", "x", "--gpus", "0"], "argument --gpus: '0' does not do; give a whole number, 1 or more"),
        (["recipe", "x", "--gpus", "two"], "argument --gpus: 'two' does not do; give a whole number, 1 or more"),
        (["recipe", "x", "--images", "-1"], "argument --images: '-1' does not do; give a whole number, 1 or more"),
        (["probe", "--gpus", "-1"], "argument --gpus: '-1' does not do; give a whole number, 0 or more"),
        (["probe", "--nodes", "0"], "argument --nodes: '0' does not do; give a whole number, 1 or more"),
    ],
)
def test_numbers_that_make_no_sense(capsys, command, line):
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"slimclr {command[0]}: error: {line}"


ROOT = Path(__file__).parents[3]
RUN = ROOT / "config/runs/demo_slimclr_simclr.yaml"


@pytest.mark.parametrize(("section", "file"), [(Pretrain, RUN), (Probe, RUN), (Detection, ROOT / "config/demo.yaml")])
def test_a_stage_takes_its_section_of_a_whole_file(section, file):
    name = {Pretrain: "pretrain", Probe: "probe", Detection: "detection"}[section]
    written = yaml.safe_load(file.read_text())[name]
    assert parse_section(section, str(file)) == section.model_validate(written)
    assert parse_section(section, str(file), {"workers": 3}).workers == 3
    # The section alone is taken as before.
    assert parse_section(section, json.dumps(written)) == section.model_validate(written)


def test_a_mistake_in_a_whole_recipe_is_named_with_its_file(tmp_path):
    recipe = yaml.safe_load(RUN.read_text())
    recipe["probe"]["epocs"] = 3
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=r"x.yaml: probe.epocs: unknown key \(did you mean 'epochs'\?\); allowed: "):
        parse_section(Pretrain, str(tmp_path / "x.yaml"))


def test_recipe_shows_a_file_as_it_does_a_name(capsys):
    assert main(["recipe", RUN.stem]) == 0
    named = capsys.readouterr().out
    assert main(["recipe", str(RUN)]) == 0
    assert capsys.readouterr().out == named


@pytest.mark.parametrize("command", ["pretrain", "probe", "transfer"])
def test_help_says_what_file_a_recipe_may_be(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    section = "detection" if command == "transfer" else command
    assert f"file the section {section} is taken" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("there", "absent"),
    [((), "squeue, scontrol, srun"), (("squeue", "scontrol"), "srun"), (("srun",), "squeue, scontrol")],
)
def test_several_nodes_without_slurms_tools(tmp_path, monkeypatch, capfd, there, absent):
    for name in there:
        shutil.copy("/bin/true", tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = ["pretrain", "--recipe", TRAINED, "--name", "r", "--nodes", 2, "--out", tmp_path]
    code, lines = lines_of([*command, "--checkpoints", tmp_path], capfd)
    assert code == 2
    assert lines == [
        "slimclr pretrain: error: 2 nodes need Slurm's tools beside the job, but not on PATH: "
        f"{absent}; a container has none, so run without --sdm apptainer, or use one node"
    ]


@pytest.mark.parametrize("seed", ["-1", str(2**32), str(2**63), "1e3", "nan"])
def test_a_seed_that_numpy_does_not_take(tmp_path, capsys, seed):
    with pytest.raises(SystemExit) as stopped:
        main(["miniature", f"--seed={seed}", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"'{seed}' does not do; give a whole number, from 0 to 4294967295" in capsys.readouterr().err


def test_a_message_steers_no_terminal(tmp_path, capsys):
    assert main(["check", "--config", str(tmp_path / "\x1b]0;mine\x07\u202e.yaml")]) == 2
    assert capsys.readouterr().err == f"slimclr check: error: {tmp_path}/\\x1b]0;mine\\x07\\u202e.yaml: no such file\n"
