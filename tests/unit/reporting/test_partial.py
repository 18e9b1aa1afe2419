"""The report before everything is done."""

import json

import pytest

from slimclr.cli import main
from tests.helpers.small_results import write_results

RECIPE = {
    "pretrain": {"method": {"name": "random"}, "epochs": 0},
    "probe": {"epochs": 1, "optimizer": {"lr": 1.0}},
}


@pytest.fixture
def report(tmp_path):
    results = write_results(tmp_path)
    recipes = {"plain": RECIPE, "coming": RECIPE}
    config = {"name": "half", "config": {"runs": list(recipes)}, "recipes": recipes}
    command = ["report", "--config", json.dumps(config), "--results", str(results), "--out", str(tmp_path / "out")]
    command += ["--references", str(tmp_path / "references.yaml")]
    return results, tmp_path / "out", command


def test_what_is_done_is_shown_and_the_rest_named(report, capsys):
    results, out, command = report
    assert main(command) == 2
    assert "coming/metrics.json: No such file" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--partial"]) == 0
    tables = (out / "tables.md").read_text()
    assert "- Not there yet: pretrain: coming\n- Not there yet: probe: coming\n" in tables
    assert "| plain | 1.0 | 66.00 |" in tables
    # Without its probe a run has its training and its cost.
    (results / "probe/plain/metrics.json").unlink()
    assert main([*command, "--partial"]) == 0
    tables = (out / "tables.md").read_text()
    assert "- Not there yet: probe: plain, coming\n" in tables
    assert "## Size and cost" in tables


def test_nothing_done_is_one_line(report, capsys):
    results, _, command = report
    (results / "pretrain/plain/metrics.json").unlink()
    assert main([*command, "--partial"]) == 2
    assert f"{results}: no run has a result yet; report when a pre-training is done" in capsys.readouterr().err
