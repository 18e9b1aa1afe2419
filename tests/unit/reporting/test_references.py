"""The published figures: what the repository's file says, and which files are refused."""

from pathlib import Path

import pytest

from slimclr.errors import UserError
from slimclr.reporting.references import load_references

REFERENCES_FILE = Path(__file__).parents[3] / "config" / "references.yaml"


def test_the_published_figures_load():
    references = load_references(REFERENCES_FILE)
    assert references.find("mocov2_200ep", "probe", "top1", "1.0").widths == {"1.0": 67.5}
    assert references.find("supervised_slimmable_100ep", "probe", "top1", "0.25").widths["0.25"] == 64.4
    assert references.find("supervised_slimmable_100ep", "transfer", "box_ap", "1.0") is None
    assert {entry.source for entry in references.references} == set(references.sources)
    own = [entry for entry in references.references if entry.run.startswith("slimclr")]
    assert all(entry.context and entry.source == "mmdet_2018" for entry in own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: {}\nreferences: []\nextra: 1", "extra: Extra inputs"),
        (
            "sources: {}\nreferences: [{run: a, stage: probe, metric: top1, widths: {'1.0': 1}, source: b}]",
            "'b' is none",
        ),
        ("sources: {}\nreferences: [{run: a, stage: probe, metric: top1, widths: {'1': 1}, source: b}]", "not a width"),
        ("sources: [", "not valid YAML"),
    ],
)
def test_faulty_references_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "references.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_references(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
