"""Checkpoints as runs: those of `paths.raw`/released/ that recipes name, and one imported by hand, to the report."""

import shutil

import pytest
import yaml
from test_pipeline import ROOT, Pipeline
from test_raw_folders import _photos

from slimclr.cli import main
from slimclr.files import sha256
from tests.helpers.reference_checkpoints import made, saved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / ".venvs/train/installed.sha256").exists(), reason="needs .venvs/train; `make test` installs it"
    ),
]

KINDS = {
    "mocov2_slim": "encoder_q.",
    "mocov2_switch": "encoder_q.",
    "mocov3_slim": "base_encoder.",
    "simclr_slim": "encoder_q.",
    "supervised": "encoder_q.",
    "supervised_switch": "",
}
OWN = {"epochs": 0, "batch": 8, "image_size": 32, "resize": 36, "workers": 0}
PROBE = OWN | {"epochs": 1, "optimizer": {"lr": 0.3}}
# What a run that is imported by hand would be without the import.
TRAINED = {
    "pretrain": {"method": {"name": "simclr"}, "epochs": 1, "batch": 8, "batch_norm": "synchronised", "optimizer": {"lr": 0.1}},
    "probe": PROBE,
}
BY_HAND = "simclr_slim"
CLASSES = 4
QUICK = {"neighbours": [2], "temperatures": [0.1], "penalties": [0.1], "held_out": 0.25}
PAGE = "https://example.org/{releases}/1.0"


def released(pipeline, run, head, prefix):
    """A file of this kind below raw/released/, its SHA-256 in the name, and its run."""
    classifier = head.startswith("supervised")
    _, state = made(head, prefix, base=8, widths=(1.0, 0.5), out=CLASSES if classifier else 12)
    file = saved(pipeline.folder / "raw/released", state, name=f"{run}.part")
    name = f"{run}-{sha256(file)[:10]}.pth.tar"
    file.rename(file.with_name(name))
    recipe = {"checkpoint": {"file": name, "url": PAGE}, "probe": OWN if classifier else PROBE}
    pipeline.write_recipe(run, recipe | ({"quick": QUICK} if run == "mocov2_slim" else {}))
    return file.with_name(name)


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory):
    """A pipeline of released checkpoints, two of which are not there, and of one imported by hand, run to its end."""
    pipeline = Pipeline(tmp_path_factory.mktemp("released") / "p")
    del pipeline.config["miniature"]
    pipeline.config["imagenet"] |= {"train": "train", "val": "val", "keep_folder": False}
    for split, count in (("train", 4), ("val", 3)):
        names = [f"n0000000{wnid}/{image}.JPEG" for wnid in range(CLASSES) for image in range(count)]
        _photos(pipeline.folder / "raw" / split, names)
    (pipeline.folder / "raw/released").mkdir()
    for head, prefix in KINDS.items():
        if head != BY_HAND:
            released(pipeline, head, head, prefix)
    released(pipeline, "gone", "simclr_slim", "encoder_q.").unlink()
    damaged = released(pipeline, "damaged", "simclr_slim", "encoder_q.")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _, state = made(BY_HAND, KINDS[BY_HAND], base=8, widths=(1.0, 0.5))
    file = saved(pipeline.folder, state)
    folder = pipeline.folder / "work/results/pretrain" / BY_HAND
    assert main(["import", str(file), "--out", str(folder)]) == 0
    pipeline.write_recipe(BY_HAND, TRAINED)
    follower = {"pretrain": TRAINED["pretrain"] | {"init": "gone"}, "probe": PROBE}
    pipeline.write_recipe("follower", follower)
    pipeline.config["runs"] = [*KINDS, "gone", "damaged", "follower"]
    pipeline.before = contents(folder)
    return pipeline, pipeline.run("all")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_go_to_the_report_and_what_is_not_there_is_told(taken_over):
    pipeline, done = taken_over
    assert done.returncode != 0
    assert "rule pretrain" not in done.stdout
    gone, damaged = (yaml.safe_load((pipeline.folder / f"recipes/{run}.yaml").read_text())["checkpoint"]["file"]
                     for run in ("gone", "damaged"))  # fmt: skip
    (line,) = {line for line in done.stdout.splitlines() if line.startswith("error: ") and gone in line}
    assert line.endswith(f"{gone}: no such file; download it from {PAGE} and lay it there")
    (line,) = {line for line in done.stdout.splitlines() if line.startswith("error: ") and damaged in line}
    assert "fits none of its hashes (SHA-256 " in line
    assert f"download it again from {PAGE}" in line
    assert "error: left out: follower: begins with gone, which is left out" in done.stdout
    tables = (pipeline.folder / "work/results/report/tables.md").read_text()
    section = tables.partition("## Released checkpoints")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    state = {row[0].strip("| "): row[2:4] for row in rows[2:]}
    own = dict.fromkeys(("supervised", "supervised_switch"), ["imported", "its own"])
    trained = dict.fromkeys(KINDS, ["imported", "trained here"])
    assert state == trained | own | {"gone": ["missing", ""], "damaged": ["refused [a]", ""]}
    assert f"[{gone}]({PAGE})" in tables
    for head in KINDS:
        widths = pipeline.metrics("probe", head)["widths"]
        assert [row[4] for row in rows if row[0] == f"| {head}"] == list(widths) == ["1.0", "0.5"]
        assert [row[5] for row in rows if row[0] == f"| {head}"] == [f"{one['top1']:.2f}" for one in widths.values()]
        assert ("train_images" in pipeline.metrics("probe", head)["data_sha256"]) == (head not in own)
    assert "| mocov2_slim [†] | 0.5 |" in tables.partition("## Quick probes")[2]


def test_nothing_replaces_imported_weights(taken_over):
    pipeline, _ = taken_over
    weights = contents(pipeline.folder / "work/results/pretrain")
    assert pipeline.before == contents(pipeline.folder / "work/results/pretrain" / BY_HAND)
    assert pipeline.planned() == ["absent_checkpoints"]
    files = sorted(pipeline.folder.glob("raw/released/*"))
    for path in (*files, *pipeline.folder.glob("raw/*/*/*"), *pipeline.folder.glob("work/data/imagenet/*.lmdb")):
        path.touch()
    pipeline.write_recipe(BY_HAND, TRAINED | {"paper": True})
    jobs = pipeline.planned()
    assert jobs == ["absent_checkpoints", "report"]
    files[2].unlink()
    assert pipeline.planned() == jobs
    assert contents(pipeline.folder / "work/results/pretrain") == weights
    # What is there at last is imported, and what begins with it trained; nothing else.
    released(pipeline, "gone", "simclr_slim", "encoder_q.")
    added = sorted(set(pipeline.planned()) - set(jobs))
    assert added == ["import_checkpoint gone", "pretrain follower", "probe follower", "probe gone"]
