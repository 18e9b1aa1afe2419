"""Everything that the reference's figures cover, through the tool that people use (tests/parity.py)."""

import json
from pathlib import Path

import pytest

from tests import parity

GOLDEN = Path(__file__).parents[2] / "golden"
OPEN = json.loads((GOLDEN / "open.json").read_text())
FUNCTIONS = json.loads((GOLDEN / "functions.json").read_text())


def failures(rows):
    return [str(row) for row in rows if not row.passed]


@pytest.mark.parametrize("key", FUNCTIONS)
def test_functions_equal_the_reference(key):
    assert failures(parity.evaluate({key: FUNCTIONS[key]})) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", OPEN["encoder"], ids=lambda case: case["name"])
def test_encoder_outputs_equal_the_reference(case):
    assert failures(parity.evaluate({"encoder": [case]})) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", OPEN["training_step"], ids=lambda case: case["case"])
def test_training_steps_equal_the_reference(case):
    assert failures(parity.evaluate({"training_step": [case]})) == []


def test_a_wrong_figure_is_reported_and_fails(tmp_path, capsys):
    path = tmp_path / "figures.json"
    momentum = [dict(case) for case in FUNCTIONS["momentum_cos"]]
    momentum[1]["m"] *= 1.001
    path.write_text(json.dumps({"momentum_cos": momentum}))
    assert parity.main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "FAIL", *["PASS"] * 4]
    assert lines[1].startswith("FAIL momentum_cos/epoch1.5 ")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"loss_weights": [{"mode": 4, "widths": [1.0], "weights": [1.0]}]}, "mode 4"),
        ({"distillation": {"tofd": {}}}, "tofd"),
        ({"something": []}, "unknown top-level key"),
        ({"encoder": [OPEN["encoder"][0] | {"fc": "byol"}]}, "fc byol"),
        ({"training_step": [OPEN["training_step"][0] | {"config": {"cutmix": 1}}]}, "unknown option cutmix"),
    ],
)
def test_what_is_unknown_fails(document, reason, tmp_path, capsys):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(document))
    assert parity.main([str(path)]) == 1
    assert reason in capsys.readouterr().out


OPTIONS = {
    "mocov2": [
        {"overlap_weight": False, "width_mult_list": [1.0, 0.5, 0.25]},
        {"slim_fc": "mocov2_switch", "dkd_loss": 1, "seed_loss": 0},
        {"full_distill": 1, "mse_loss": 2},
        {"mse_loss": 1, "slim_loss_weighted": 6},
        {"width_mult_list": [1.0], "slim_loss_weighted": 0},
    ],
    "mocov3": [{"atkd_loss": 1, "seed_loss": 0}, {"inplace_distill": 1}],
    "simclr": [{"seed_loss": 0, "slim_loss_weighted": 7}, {"full_distill": 1}],
}


@pytest.mark.parametrize(
    ("method", "options"),
    [(method, options) for method, rows in OPTIONS.items() for options in rows],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_every_option_of_the_reference_has_a_recipe(method, options):
    """Whether its figures are right is for a file that has them; here they only have to become a recipe."""
    case = next(case for case in OPEN["training_step"] if case["method"] == method)
    assert parity.recipe(case | {"config": case["config"] | options}).method.name == method


def test_no_slow_start_as_the_reference_writes_it():
    case = OPEN["training_step"][0]
    assert parity.recipe(case | {"config": case["config"] | {"slim_start_epoch": -1}}).slow_start_epoch == 0


def test_full_distill_goes_with_mocov2_alone():
    cases = {case["method"]: case for case in OPEN["training_step"]}
    cases = {name: case | {"config": case["config"] | {"full_distill": 1}} for name, case in cases.items()}
    assert parity.recipe(cases["mocov2"]).distillation.full_distill
    assert not parity.recipe(cases["simclr"]).distillation.full_distill
    with pytest.raises(parity.Unknown, match="mocov3"):
        parity.recipe(cases["mocov3"])
