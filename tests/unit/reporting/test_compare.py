"""Two folders of results side by side."""

import json

import pytest

from slimclr.cli import main
from slimclr.reporting.compare import newcombe
from slimclr.statistics import wilson_interval
from tests.helpers.small_results import write_results


@pytest.fixture
def two(tmp_path):
    folders = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        folders.append(write_results(tmp_path / name))
    return folders


def rows(text, section):
    found = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines() if line.startswith("|")
    ][2:]


def set_figures(folder, run, **figures):
    path = folder / "probe" / run / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["widths"]["1.0"] = figures
    path.write_text(json.dumps(metrics))


def test_a_difference_of_shares_as_newcombe_gives_it():
    # Newcombe 1998, table II, (a): 56/70 and 48/80, method 10: 0.0524 to 0.3339.
    one, other = ((100 * right / n, *wilson_interval(right, n)) for right, n in ((48, 80), (56, 70)))
    assert newcombe(one, other) == pytest.approx((5.24, 33.39), abs=0.005)


def test_figures_and_recipes_that_differ(two, capsys):
    a, b = two
    set_figures(a, "plain", top1=60.0, top1_low=50.2, top1_high=69.1)
    set_figures(b, "plain", top1=62.0, top1_low=52.2, top1_high=70.9)
    (b / "transfer/plain/metrics.json").unlink()
    for folder, epochs in ((a, 100), (b, 200)):
        (folder / "report/recipes").mkdir(parents=True)
        (folder / "report/recipes/plain.yaml").write_text(f"pretrain: {{epochs: {epochs}, batch: 4}}\n")
    assert main(["compare", str(a), str(b), "--run", "plain"]) == 0
    text = capsys.readouterr().out
    assert ["plain", "probe", "1.0", "top1", "60", "62", "+2.00", "−11.37 to +15.24"] in rows(text, "Figures")
    assert rows(text, "Recipes") == [["plain", "pretrain.epochs", "100", "200"]]
    assert f"plain: {b} has no transfer." in text


def test_all_runs_of_both_and_pretrainings_recipe_without_a_report(two, capsys):
    for folder, rate in zip(two, (0.1, 0.2), strict=True):
        (folder / "pretrain/slim/config.yaml").write_text(f"optimizer: {{lr: {rate}}}\n")
    assert main(["compare", *map(str, two)]) == 0
    text = capsys.readouterr().out
    assert {row[0] for row in rows(text, "Figures")} == {"plain", "random_resnet50", "slim", "slim_seed1"}
    assert all(row[6] == "0.00" for row in rows(text, "Figures"))
    assert rows(text, "Recipes") == [["slim", "pretrain.optimizer.lr", "0.1", "0.2"]]
    assert "slim: pre-training alone is compared" in text
    assert "plain: its recipe is not in both" in text


def test_what_cannot_be_compared_is_one_line(two, tmp_path, capsys):
    a, b = map(str, two)
    for arguments, said in (
        ([a, str(tmp_path)], "no folder of results"),
        ([a, b, "--run", "typo"], "no run typo; there are plain, random_resnet50, slim, slim_seed1"),
    ):
        assert main(["compare", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
