"""The report as files: complete, self-contained, the same twice, and clear about what is missing."""

import base64
import html
import json
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slimclr.errors import UserError
from slimclr.reporting.figures.training import thin
from tests.helpers.small_results import STAGES, put, write, write_results

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path)


class Page(HTMLParser):
    """Checks that elements nest, and collects tables, ids and everything that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "section":
            self.ids.append(attributes["id"])
        if tag == "a":
            self.anchors.append(attributes["href"])
        elif tag == "img" and attributes["src"].startswith("data:image/jpeg;base64,"):
            pass
        elif tag in ("script", "link", "img", "iframe", "object", "image"):
            self.loaded.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data.strip()


def test_page_is_whole_and_loads_nothing(results):
    text = (write(results) / "index.html").read_text()
    page = Page(text)
    assert page.loaded == ["script"]
    assert "<script>" in text
    assert "@import" not in text
    assert all(not part.startswith("url(") or part.startswith("url(#") for part in text.split() if "url(" in part)
    local = [anchor.removeprefix("#") for anchor in page.anchors if anchor.startswith("#")]
    assert set(local) == set(page.ids)


def test_page_shows_every_run_and_width(results):
    page = Page((write(results) / "index.html").read_text())
    (probe,) = [table for table in page.tables if "Top-1" in table[0]]
    assert probe[1:] == [
        # 66 and 67: mean 66.5, sample standard deviation 1 / sqrt(2).
        ["slim†", "1.0", "66.50 ± 0.71", "", "", "88.00 ± 0.00", "2"],
        ["0.5", "33.50 ± 0.71", "", "", "88.00 ± 0.00", "2"],
        ["plain", "1.0", "66.00", "67.5", "−1.50", "88.00", "1"],
        ["random_resnet50", "1.0", "66.00", "", "", "88.00", "1"],
        ["0.5", "33.00", "", "", "88.00", "1"],
    ]


def test_page_shows_ap_by_overlap_and_size(results):
    path = results / "transfer/plain/metrics.json"
    transfer = json.loads(path.read_text())
    items = ("50", "75", "_small", "_medium", "_large")
    figures = {
        f"{kind}_ap{item}": first + i for kind, first in (("box", 20.0), ("mask", 10)) for i, item in enumerate(items)
    }
    transfer["widths"]["1.0"] |= figures | {"mask_ap_large": None}
    path.write_text(json.dumps(transfer))
    page = Page((write(results) / "index.html").read_text())
    (detail,) = [table for table in page.tables if "Box small" in table[0]]
    numbers = ["20.0", "21.0", "22.0", "23.0", "24.0", "10.0", "11.0", "12.0", "13.0", ""]
    assert detail[1:] == [["plain", "1.0", *numbers]]
    transfer["widths"]["1.0"]["mask_ap_small"] = 101
    path.write_text(json.dumps(transfer))
    with pytest.raises(UserError, match="mask_ap_small must be a number from 0 to 100"):
        write(results)


def test_pictures_of_the_transfer_are_in_the_page(results):
    folder = results / "transfer/plain/pictures"
    folder.mkdir()
    Image.new("RGB", (320, 40), (9, 99, 9)).save(folder / "1.0.jpg")
    Image.new("RGB", (320, 40)).save(folder / "0.5.jpg")  # of a width that the metrics do not have
    page = (write(results) / "index.html").read_text()
    assert "img" not in Page(page).loaded
    content = base64.b64encode((folder / "1.0.jpg").read_bytes()).decode()
    assert page.count("<img ") == 1
    assert f'<img src="data:image/jpeg;base64,{content}" width="320" height="40"' in page
    assert "What the detectors see" in page
    for other in (b"<svg onload='x'>", b"x" * (2 << 20)):
        (folder / "1.0.jpg").write_bytes(other)
        with pytest.raises(UserError, match=r"1\.0\.jpg: not a picture of the transfer; run the rule transfer again"):
            write(results)


def test_page_says_what_is_not_comparable_and_escapes_it(results):
    text = (write(results) / "index.html").read_text()
    assert "one &lt;GPU&gt;" in text
    assert "1 of 3 runs" in text


def test_files_and_their_content(results):
    out = write(results)
    names = ["accuracy", "training_plain", "training_slim"]
    assert sorted(path.name for path in out.iterdir()) == [
        "figures", "index.html", "recipes", "tables.csv", "tables.md", "tables.tex",
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "figures").iterdir()) == sorted(
        f"{name}.{ending}" for name in names for ending in ("svg", "pdf", "png", "csv")
    )
    frame = pd.read_csv(out / "tables.csv", dtype={"width": str})
    row = frame[(frame["run"] == "plain") & (frame["metric"] == "top1")].iloc[0]
    assert (row["value"], row["published"], row["difference"], row["source"]) == (66.0, 67.5, -1.5, "some README")
    assert r"\begin{tabular}" in (out / "tables.tex").read_text()
    assert "| plain | 1.0 | 66.00 | 67.5 | −1.50 | 88.00 | 1 |" in (out / "tables.md").read_text()


def test_written_twice_it_is_the_same(results):
    first, second = write(results, "first"), write(results, "second")
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) == 16
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("probe/plain/metrics.json", None, "No such file"),
        ("probe/plain/metrics.json", "{", "Invalid JSON"),
        (
            "probe/plain/metrics.json",
            '{"schema": 2, "run": "plain", "stage": "probe", "widths": {"1.0": {}}}',
            "schema",
        ),
        ("probe/plain/metrics.json", '{"schema": 1, "run": "x", "stage": "probe", "widths": {"1.0": {}}}', "run 'x'"),
        (
            "probe/plain/metrics.json",
            '{"schema": 1, "run": "plain", "stage": "probe", "widths": {"1.0": {}}}',
            "'top1'",
        ),
        ("probe/plain/metrics.json", '{"schema": 1, "run": "plain", "stage": "probe", "widths": {"w": {}}}', "'w'"),
        ("transfer/plain/metrics.json", None, "No such file"),
        ("pretrain/plain/metrics.jsonl", None, "No such file"),
        ("pretrain/plain/metrics.jsonl", '{"epoch": 1, "widths": {}}', "line 1: no key 'lr'"),
        ("pretrain/plain/metrics.jsonl", "nonsense", "line 1"),
    ],
)
def test_an_unusable_file_is_named_with_the_rule_to_run(results, file, text, message):
    path = results / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        write(results)
    assert str(path) in str(raised.value)
    assert f"run the rule {file.split('/')[0]} again" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_transfer_run_must_be_a_run(results):
    with pytest.raises(UserError, match="'typo' belongs to no run"):
        write(results, stages=STAGES | {"transfer": ["typo"]})


def test_thin_averages_neighbours():
    x, y = thin(np.arange(5.0), np.array([0.0, 2.0, 4.0, 6.0, 10.0]), points=3)
    assert x.tolist() == [0.5, 2.5, 4.0]
    assert y.tolist() == [1.0, 5.0, 10.0]
    short = np.arange(3.0)
    assert thin(short, short, points=3)[0] is short


def test_layers_and_rates_of_a_probe(results):
    file = results / "probe" / "plain" / "metrics.json"
    metrics = json.loads(file.read_text())
    layer = {"widths": {"1.0": {"top1": 66.0}}, "chosen": {"1.0": {"lr": 3.0, "weight_decay": 0.0}}}
    metrics["layers"] = {
        "switchable": layer | {"published": {"1.0": {"top1": 61.5}}},
        "slimmable": layer | {"published": None},
    }
    metrics["grid"] = [
        {"layer": name, "lr": lr, "weight_decay": 0.0, "held_out": {"1.0": {"top1": 50 + lr}}}
        for name in metrics["layers"]
        for lr in (1.0, 3.0)
    ] + [{"layer": "slimmable", "lr": 30.0, "weight_decay": 0.0, "held_out": None}]
    put(file, metrics)
    out = write(results)
    markdown = (out / "tables.md").read_text()
    assert "| plain | switchable | 1.0 | 66.00 | 3 | 0 | 61.50 | 53.00 |" in markdown
    assert "| plain | slimmable | 1.0 | 66.00 | 3 | 0 | diverged | 53.00 |" in markdown
    assert (out / "figures" / "rates_plain.svg").is_file()
    assert 'id="rates"' in (out / "index.html").read_text()


def test_accuracy_over_measured_time_is_drawn(results):
    for run in ("slim", "slim_seed1", "plain", "random_resnet50"):
        widths = {"1.0": {"latency_ms": 40.0}} | ({} if run == "plain" else {"0.5": {"latency_ms": 12.5}})
        about = {"schema": 1, "run": run, "stage": "latency", "weights_sha256": "f" * 64, "widths": widths}
        put(results / "latency" / run / "metrics.json", about)
    every = ["slim", "slim_seed1", "plain", "random_resnet50"]
    out = write(results, stages=STAGES | {"latency": every})
    page = (out / "index.html").read_text()
    assert "Linear-probe top-1 against measured time" in page
    assert "Measured (ms)" in page
    assert "random_resnet50" not in (out / "figures/latency.svg").read_text()
    assert (out / "figures/latency.png").stat().st_size > 1000


def test_accuracies_while_training(results):
    file = results / "probe" / "plain" / "metrics.json"
    seen = [{"epoch": epoch, "widths": {"1.0": {"top1": 10.0 * epoch, "top5": 90.0}}} for epoch in (1, 2)]
    put(file, json.loads(file.read_text()) | {"validation": seen})
    with (results / "pretrain" / "plain" / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "epoch": 2, "knn": {"1.0": 30.0}, "knn_val": {"1.0": 25.0}}) + "\n")
    out = write(results)
    drawn = {path.stem for path in (out / "figures").glob("validation_*.svg")}
    assert drawn == {"validation_probe_plain", "validation_pretrain_plain"}
    assert "kNN of training images" in (out / "figures" / "validation_pretrain_plain.svg").read_text()
    assert 'id="validation"' in (out / "index.html").read_text()


def test_a_report_without_drawings_has_their_folder_all_the_same(tmp_path):
    runs = {"random_resnet50": ["random_resnet50"]}
    out = write(write_results(tmp_path), runs=runs, stages={"probe": list(runs)})
    assert list((out / "figures").iterdir()) == []


GRADIENTS = {
    "widths": {
        "1.0": {"norm_used": 2.0, "norm_rest": 0.0, "ratio": None},
        "0.5": {"norm_used": 1.0, "norm_rest": 0.5, "ratio": 2.0},
    },
    "cosine": {"1.0/0.5": 0.25},
    "last_layer": {"singular_1": 0.5, "singular_2": 0.1},
}


def test_gradients_are_drawn_and_given_as_numbers_and_words(results):
    with (results / "pretrain/plain/metrics.jsonl").open("a") as log:
        for epoch in (2, 3):
            line = {"step": epoch, "epoch": epoch, "lr": 0.1, "widths": {"1.0": {"loss": 1.0}}, "gradients": GRADIENTS}
            log.write(json.dumps(line) + "\n")
    out = write(results)
    drawn = pd.read_csv(out / "figures/gradients_plain.csv", dtype={"widths": str})
    assert drawn.columns.tolist() == ["kind", "widths", "epoch", "value"]
    assert sorted(drawn[drawn["epoch"] == 3]["value"]) == [0.0, 0.1, 0.25, 0.5, 0.5, 1.0, 2.0, 2.0]
    page = (out / "index.html").read_text()
    assert "cosine, 1.0/0.5: value 0.25 at epoch 2 to 0.25 at epoch 3" in page
    assert (out / "figures/gradients_plain.pdf").read_bytes().startswith(b"%PDF")


def test_a_loss_has_an_axis_for_each_width_and_its_numbers(results):
    log = results / "pretrain/plain/metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = {"widths": {"1.0": {"loss": 1}, "0.5": {"loss": 9}}}
    log.write_text("".join(json.dumps(line | losses) + "\n" for line in lines))
    out = write(results)
    text = (out / "figures/training_plain.svg").read_text()
    assert all(label in text for label in ("Loss, 1.0", "Loss, 0.5", "Rate"))
    data = pd.read_csv(out / "figures/training_plain.csv", dtype={"width": str})
    assert set(data[(data["drawn"] == "loss") & (data["width"] == "0.5")]["value"]) == {9}


def test_rate_and_waiting_of_a_training(results):
    log = results / "pretrain/plain/metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rates = [{"images_per_s": 100.0 * (n + 1), "data_wait": 0.1 * n, "memory_mb": 2500} for n in range(4)]
    log.write_text("".join(json.dumps(line | rate) + "\n" for line, rate in zip(lines, rates, strict=True)))
    (table,) = [table for table in Page((write(results) / "index.html").read_text()).tables if "Images/s" in table[0]]
    assert table[-1] == ["plain", "CPU", "250.0", "15.0 %", "2.5", "00:01:01"]


def test_recipes_can_be_taken_away(results):
    out = write(results, recipes={"plain": "pretrain: {epochs: 2}\n"})
    assert (out / "recipes/plain.yaml").read_text() == "pretrain: {epochs: 2}\n"
    assert "recipes/plain.yaml" in Page((out / "index.html").read_text()).anchors


def test_figures_that_a_user_types_in_come_first(results):
    own = results.parent / "references.user.yaml"
    own.write_text(
        "references:\n- {run: plain, stage: probe, metric: top1, widths: {'1.0': 67.9}, source: readme}\n"
        "- {run: slim, stage: probe, metric: top1, widths: {'0.5': 60.5}, source: mine}\n"
        "sources: {mine: {title: typed in}}\n"
    )
    out = write(results, references=[results.parent / "references.yaml", own])
    frame = pd.read_csv(out / "tables.csv", dtype={"width": str})
    top1 = frame[frame["metric"] == "top1"].set_index(["run", "width"])
    assert top1.loc[("plain", "1.0")]["published"] == 67.9
    assert top1.loc[("slim", "0.5")]["source"] == "typed in"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium on PATH")
def test_a_browser_sorts_tables(results):
    page = write(results) / "index.html"
    script = """<script>
        const rows = () => [...document.querySelectorAll("#probe tbody tr")];
        const first = () => rows().map((row) => row.cells[0].textContent.trim());
        const head = document.querySelectorAll("#probe thead th")[2], seen = [first()];
        for (let click = 0; click < 3; click++) { head.querySelector("button").click(); seen.push(first()); }
        document.title = JSON.stringify(seen);
    </script>"""
    page.write_text(page.read_text().replace("</body>", script + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", *options, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    grouped, falling, rising, again = json.loads(html.unescape(shown.partition("<title>")[2].partition("</title>")[0]))
    # 66.5, 33.5 / 66 / 66, 33: the group's name is on its first row alone until rows are sorted.
    assert falling == ["slim†", "plain", "random_resnet50", "slim†", "random_resnet50"]
    assert rising == ["random_resnet50", "slim†", "plain", "random_resnet50", "slim†"]
    assert grouped == again
