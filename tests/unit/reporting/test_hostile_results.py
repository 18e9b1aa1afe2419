"""Results and references as a damaged disk or an attacker would write them: one clear line each, or harmless text."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slimclr.cli import main
from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.reporting.figures import Drawing
from slimclr.reporting.layouts import markdown, to_csv, to_latex, to_markdown
from slimclr.reporting.references import References, load_references
from slimclr.reporting.results import read_results
from slimclr.reporting.summary import summarise
from slimclr.reporting.tables.table import Cell, Column, Table
from tests.helpers.small_results import RUNS, STAGES, put, write, write_results

DEEP = '{"a":' * 100_000
NASTY = "\x1b]0;x\x07<script>alert(1)</script> [x](javascript:alert) `a` *b* \\input{/etc/passwd} $x$ | & \u202e\x00"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path)


def change(path: Path, key: str, value: Any) -> None:
    """Set `a.b.c` of a JSON file; dots within a name are written as commas."""
    document = json.loads(path.read_text())
    *parents, last = (name.replace(",", ".") for name in key.split("."))
    part = document
    for parent in parents:
        part = part[parent]
    part[last] = value
    put(path, document)


def refused(results: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_results(results, RUNS, STAGES)
    message = str(raised.value)
    assert message.isprintable(), "one line, and nothing that a terminal obeys"
    assert len(message.replace(str(results), "")) < 400
    return message


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", 2, "schema: Input should be 1, but it is 2"),
        ("run", "slim", "holds run 'slim'"),
        ("run", 7, "run: Input should be a valid string, but it is 7"),
        ("stage", "\x1b[31m", r"stage."),
        ("widths", {}, "widths: Dictionary should have at least 1 item"),
        ("widths", {"w": {}}, "widths.w: 'w' is not a width"),
        ("widths", {"inf": {}}, "widths.inf: 'inf' is not a width"),
        ("widths", {"nan": {}}, "widths.nan: 'nan' is not a width"),
        ("widths", {"-0.5": {}}, "'-0.5' is not a width"),
        ("widths", {"1e+30": {}}, "'1e+30' is not a width"),
        ("widths", {"9" * 9000: {}}, "is not a width"),
        ("widths", {"1.0": []}, "widths.1.0: Input should be an object, but it is a list"),
        ("widths.1,0.top1", float("nan"), "widths.1.0.top1 must be a number from 0 to 100, but it is nan"),
        ("widths.1,0.top1", float("inf"), "widths.1.0.top1 must be a number from 0 to 100, but it is inf"),
        ("widths.1,0.top1", -1, "widths.1.0.top1 must be a number from 0 to 100, but it is -1"),
        ("widths.1,0.box_ap", 1e30, "widths.1.0.box_ap must be a number from 0 to 100, but it is 1e+30"),
        ("widths.1,0.params", 0, "widths.1.0.params must be a number from 1 to 1e+15, but it is 0"),
        ("widths.1,0.macs", -5, "widths.1.0.macs must be a number from 1 to 1e+18, but it is -5"),
        ("widths.1,0.loss", 10**400, "widths.1.0.loss must be a number from -3.40282e+38 to 3.40282e+38, but it is"),
        ("epochs", float("nan"), "epochs: Input should be a finite number, but it is nan"),
        ("epochs", -1, "epochs: Input should be greater than or equal to 0, but it is -1"),
        ("provenance.duration_s", float("nan"), "provenance.duration_s: Input should be a finite number"),
        ("provenance.duration_s", 1e300, "provenance.duration_s: Input should be less than or equal to 1000000000"),
        ("provenance.duration_s", "long", "provenance.duration_s: Input should be a valid number"),
        ("provenance.duration_s", -1, "provenance.duration_s: Input should be greater than or equal to 0"),
        ("provenance.started", "yesterday", "provenance.started: 'yesterday' is not a time with its zone"),
        ("provenance.started", "2026-13-45T00:00:00+00:00", "is not a time with its zone"),
        ("provenance.started", "2026-01-02T03:04:05", "is not a time with its zone"),
        ("provenance.started", "0001-01-01T00:00:00+14:00", "is not a time with its zone"),
        ("provenance.started", 5, "provenance.started: Input should be a valid string, but it is 5"),
        ("provenance.machine", "x" * 5000, "provenance.machine: String should have at most 1000 characters"),
        ("provenance.versions", {"torch": 2}, "provenance.versions.torch: Input should be a valid string, but it is 2"),
        ("provenance", None, "provenance: Input should be an object, but it is None"),
        ("weights_sha256", "x" * 64, "weights_sha256: String should match pattern"),
        ("weights_sha256", None, "about the weights"),
    ],
)  # fmt: skip
def test_a_metrics_file_that_is_none_is_refused(results, key, value, said):
    path = results / "probe" / "plain" / "metrics.json"
    change(path, key, value)
    message = refused(results)
    assert said in message
    assert message.startswith(f"{path}: ")
    assert message.endswith(f"run the rule probe again: snakemake --force {path}")


@pytest.mark.parametrize(
    "content", [DEEP, DEEP.replace('{"a":', "["), "\ud800", b"\xff\xfe", b"", b"\x00" * 9, "[]", "7"]
)
def test_a_file_of_something_else_is_refused(results, content):
    for file in ("probe/plain/metrics.json", "pretrain/plain/metrics.jsonl"):
        path, before = results / file, (results / file).read_bytes()
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        if content or path.suffix == ".json":
            assert str(path) in refused(results)
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"epoch": 1, "lr": 0.1, "widths": {"w": {"loss": 1}}}', "line 2: widths.w: 'w' is not a width"),
        ('{"epoch": 1, "lr": 0.1, "widths": {"1.0": {"loss": NaN}}}', "widths.1.0.loss: Input should be a finite"),
        ('{"epoch": 1, "lr": 0.1, "widths": {"1.0": {"loss": 1e300}}}', "widths.1.0.loss: Input should be less"),
        ('{"epoch": 1, "lr": 0.1, "widths": {"1.0": {}}}', "line 2: widths.1.0.loss: Field required"),
        ('{"epoch": -Infinity, "lr": 0.1, "widths": {"1.0": {"loss": 1}}}', "line 2: epoch: Input should be"),
        ('{"epoch": 1, "lr": 1e99, "widths": {"1.0": {"loss": 1}}}', "line 2: lr: Input should be less"),
        (DEEP, "line 2: Invalid JSON: recursion limit exceeded"),
    ],
)  # fmt: skip
def test_a_log_that_is_none_is_refused(results, line, said):
    path = results / "pretrain/plain/metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
    message = refused(results)
    assert f"{path}: line 2: " in message
    assert said in message
    assert "run the rule pretrain again" in message


def test_a_log_may_have_lines_of_the_nearest_neighbours(results):
    path = results / "pretrain/plain/metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 3, "epoch": 2.0, "knn": {"1.0": 41.5}}\n')
    assert len(read_results(results, RUNS, STAGES).curves) == 12


@pytest.mark.parametrize("stage", ["probe", "transfer"])
def test_stages_of_different_weights_are_refused_with_the_stage_to_run_again(results, stage):
    pretrain, other = (results / one / "plain/metrics.json" for one in ("pretrain", stage))
    weights = pretrain.with_name("weights.safetensors")
    weights.write_bytes(b"weights")
    change(other, "weights_sha256", "e" * 64)
    assert refused(results) == (
        f"{other}: is about the weights eeeeeeeeeeee, but {pretrain} (pretrain) about ffffffffffff; "
        f"run the rule {stage} again: snakemake --force {other}"
    )
    # The weights that are there are the other stage's: it is pre-training's description that is old.
    change(other, "weights_sha256", sha256(weights))
    assert refused(results).endswith(f"run the rule pretrain again: snakemake --force {pretrain}")
    change(pretrain, "stage", "import")
    assert refused(results).endswith(f"again: slimclr import {weights} --out {weights.parent}")


def test_seeds_of_one_run_are_of_one_method(results):
    path = results / "pretrain/slim_seed1/metrics.json"
    change(path, "arch", "resnet101")
    assert f"{path}: is of 'mocov2' on 'resnet101', but slim, another seed of the same run, of" in refused(results)


def test_two_runs_of_one_name_are_refused(results):
    with pytest.raises(UserError, match="two runs of the report have results of the name 'plain'; rename one"):
        read_results(results, RUNS | {"other": ["plain"]}, {})


def reference(**changes: Any) -> str:
    entry = {"run": "plain", "stage": "probe", "metric": "top1", "widths": {"1.0": 67.5}, "source": "readme"}
    entry = {key: value for key, value in (entry | changes).items() if value is not None}
    return json.dumps({"sources": {"readme": {"title": "R", "url": "https://example.org"}}, "references": [entry]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (reference(source=None), "references.0.source: Field required"),
        (reference(source="x"), "source 'x' is none of readme"),
        (reference(widths={"1.0": float("nan")}).replace("NaN", ".nan"), "widths.1.0: Input should be a finite"),
        (reference(widths={"1.0": 1000}), "plain, width 1.0: top1 must be a number from 0 to 100, but it is 1000"),
        (reference(widths={"w": 1}), "references.0.widths.w: 'w' is not a width"),
        (reference(spread=-1), "references.0.spread: Input should be greater than or equal to 0, but it is -1"),
        (reference(note="x" * 2000), "references.0.note: String should have at most 1000 characters"),
        (reference().replace('"title": "R"', '"title": ""'), "sources.readme.title: String should have at least 1"),
        (reference().replace('"run"', '"stage": "probe", "run"'), "the key 'stage' is there twice"),
        (reference(note="x").replace('"x"', "[" * 999 + "]" * 999), "nested too deeply"),
        ("a: &a [*a]", "an alias of what it is in"),
        ("[]", "Input should be a valid dictionary or instance of References, but it is a list"),
        *(
            (reference().replace("https://example.org", address), "readme.url: String should match pattern")
            for address in ("javascript:alert(1)", "data:text/html,x", "//a.org", "http://a b", "https://a/)", "file:/")
        ),
    ],
)  # fmt: skip
def test_references_that_are_none_are_refused(tmp_path, text, said):
    path = tmp_path / "references.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_references(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert said in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


def test_texts_of_the_results_stay_texts(results):
    for stage in ("pretrain", "probe", "transfer"):
        path = results / stage / "plain" / "metrics.json"
        change(path, "provenance", {"machine": NASTY, "device": "=1+1", "git_commit": NASTY, "versions": {NASTY: "1"}})
        change(path, "comparable", False)
        change(path, "comparable_because", [NASTY])
        change(path, "widths.1,0.=cmd|' /C calc'!A0", 5)
    for stage in ("pretrain", "probe"):
        for run in RUNS:
            for directory in RUNS[run]:
                change(results / stage / directory / "metrics.json", "arch", NASTY)
    title = json.dumps(NASTY)
    (results.parent / "references.yaml").write_text(reference(metric="-x", note=NASTY).replace('"R"', title))
    out = write(results, config_name=NASTY)
    page, md, tex, table = (
        (out / name).read_text() for name in ("index.html", "tables.md", "tables.tex", "tables.csv")
    )
    for text in (page, md, tex, table):
        assert [character for character in text if not character.isprintable() and character != "\n"] == []
    assert r"\x1b]0;x\x07&lt;script&gt;" in page
    assert page.count("<script") == 1  # the page's own
    assert 'href="javascript' not in page
    assert r"\\x1b\]0;x\\x07&lt;script&gt;" in md
    assert "<script" not in md
    assert not re.search(r"(?<!\\)\[x(?<!\\)\]\(", md)
    assert r"\input" not in tex
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\$" in tex
    rows = list(csv.reader(table.splitlines()))
    assert {len(row) for row in rows} == {10}
    assert not [field for row in rows for field in row if field[:1] in "=+@" and field]
    assert "'=cmd|' /C calc'!A0" in {row[3] for row in rows}


def test_each_format_escapes_its_own():
    text = "a_b _c_ [x](y) <i> & `z` *s* ~ $ | \\"
    assert markdown(text) == r"a_b \_c\_ \[x\](y) &lt;i&gt; &amp; \`z\` \*s\* \~ \$ \| " + "\\\\"
    table = Table(
        "k", "T", "C", [Column("Run", False), Column("X", False)], [[Cell("[2]"), Cell("%\\x", url="https://a/(b)")]]
    )
    assert "| \\[2\\] | [%\\\\x](https://a/%28b%29) |" in to_markdown(table)
    assert "\\midrule\n{[}2] & \\%\\textbackslash{}x" in to_latex(table)
    drawing = Drawing("k", '"><script>', "<svg></svg>", b"", b"", "", "")
    assert "<script" not in drawing.embedded


def test_a_published_title_is_no_formula(results):
    published = References.model_validate(json.loads(reference().replace('"R"', '"@SUM(A1)"')))
    found = read_results(results, RUNS, STAGES)
    assert ",'@SUM(A1)\n" in to_csv(summarise(found.values, published))
    with pytest.raises(ValidationError):
        References.model_validate({"sources": {}, "references": [{"run": "a"}]})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (DEEP, "--config: not JSON"),
        ('{"name": "x", "config": {"runs": ["a"]}, "recipes": {"../../x": %s}}', "the recipes are not those"),
        ('{"name": "\\u001b]0;x", "config": {"runs": []}, "recipes": {}}', "--config: not JSON with a valid config"),
    ],
)
def test_a_faulty_command_line_gives_one_line(capsys, tmp_path, config, said):
    recipe = {
        "pretrain": {"method": {"name": "random"}, "epochs": 0},
        "probe": {"epochs": 1, "optimizer": {"lr": 1.0}},
    }
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path), "--references", str(tmp_path / "no\x1b[31m")]
    assert main(["report", "--config", config.replace("%s", json.dumps(recipe)), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.rstrip("\n").isprintable()
