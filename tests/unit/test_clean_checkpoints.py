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
            (results / "pretrain" / run / "metrics.json").touch()
    mmdet = checkpoints / "transfer/done/abc/seed0/epoch_12.pth"
    mmdet.parent.mkdir(parents=True)
    mmdet.write_bytes(bytes(50))
    (results / "transfer/done").mkdir(parents=True)
    (results / "transfer/done/metrics.json").touch()
    before = sorted(checkpoints.rglob("*"))
    assert clean_checkpoints(checkpoints=checkpoints, results=results, dry_run=True) > 150
    assert sorted(checkpoints.rglob("*")) == before
    clean_checkpoints(checkpoints=checkpoints, results=results, dry_run=False)
    left = [path.relative_to(checkpoints / "pretrain").parts[0] for path in checkpoints.rglob("*.pt*")]
    assert sorted(left) == ["longer", "new"]
