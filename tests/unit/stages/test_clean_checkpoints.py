"""Freeing rolling checkpoints."""

import json

from slimclr.stages.checkpoints import clean_checkpoints


def test_only_what_is_finished_goes(tmp_path):
    checkpoints, results = tmp_path / "checkpoints", tmp_path / "results"
    # The second is trained for more epochs than its results; the third has none.
    for run, finished, results_there in (("done", True, True), ("longer", False, True), ("new", False, False)):
        folder = checkpoints / "pretrain" / run / "abc/seed0"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"recipe": {}, "finished": finished}))
        (folder / "step_00000010.pt").write_bytes(bytes(100))
        if results_there:
            (results / "pretrain" / run).mkdir(parents=True)
            (results / "pretrain" / run / "metrics.json").write_text('{"stage": "pretrain"}')
    mmdet = checkpoints / "transfer/done/abc/seed0/epoch_12.pth"
    mmdet.parent.mkdir(parents=True)
    mmdet.write_bytes(bytes(50))
    (results / "transfer/done").mkdir(parents=True)
    (results / "transfer/done/metrics.json").write_text('{"stage": "transfer"}')
    before = sorted(checkpoints.rglob("*"))
    assert clean_checkpoints(checkpoints=checkpoints, results=results, dry_run=True) > 150
    assert sorted(checkpoints.rglob("*")) == before
    clean_checkpoints(checkpoints=checkpoints, results=results, dry_run=False)
    left = [path.relative_to(checkpoints / "pretrain").parts[0] for path in checkpoints.rglob("*.pt*")]
    assert sorted(left) == ["longer", "new"]


def test_the_only_copy_of_a_training_stays_where_its_results_are_an_imports(tmp_path):
    checkpoint = tmp_path / "checkpoints/pretrain/mine/abc/seed0/step_00000010.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(bytes(100))
    results = tmp_path / "results"
    (results / "pretrain/mine").mkdir(parents=True)
    (results / "pretrain/mine/metrics.json").write_text('{"stage": "import"}')
    assert clean_checkpoints(checkpoints=tmp_path / "checkpoints", results=results, dry_run=False) == 0
    assert checkpoint.exists()
