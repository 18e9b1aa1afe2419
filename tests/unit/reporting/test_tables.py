"""Tables against figures worked out by hand."""

import math

import pandas as pd
import pytest

from slimclr.reporting.layouts import to_csv
from slimclr.reporting.references import References
from slimclr.reporting.results import VALUE_COLUMNS, Record, StageMetrics
from slimclr.reporting.summary import CSV_COLUMNS, not_comparable, summarise
from slimclr.reporting.tables.cells import duration
from slimclr.reporting.tables.cost import cost_table
from slimclr.reporting.tables.finetune import finetune_table
from slimclr.reporting.tables.gain import gain_table
from slimclr.reporting.tables.probe import probe_table
from slimclr.reporting.tables.quick import quick_table
from slimclr.reporting.tables.sources import sources_table
from slimclr.reporting.tables.table import Note, Table
from slimclr.reporting.tables.transfer import transfer_table

REFERENCES = References.model_validate(
    {
        "sources": {"readme": {"title": "some README", "url": "https://example.org"}, "other": {"title": "another"}},
        "references": [
            {"run": "plain", "stage": "probe", "metric": "top1", "widths": {"1.0": 67.5}, "spread": 0.1,
             "source": "readme", "note": "another batch size"},
            {"run": "plain", "stage": "probe", "metric": "top1", "widths": {"1.0": 60.0}, "source": "other"},
            {"run": "slim", "stage": "transfer", "metric": "box_ap", "widths": {"1.0": 38.2}, "source": "other",
             "context": True},
        ],
    }
)  # fmt: skip


def values(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=VALUE_COLUMNS)


SUMMARY = summarise(
    values(
        ("slim", "mocov2", "resnet50", "pretrain", "1.0", "params", 4e6),
        ("slim", "mocov2", "resnet50", "pretrain", "1.0", "macs", 2e9),
        ("slim", "mocov2", "resnet50", "pretrain", "0.5", "params", 1e6),
        ("slim", "mocov2", "resnet50", "pretrain", "0.5", "macs", 5e8),
        ("slim", "mocov2", "resnet50", "probe", "1.0", "top1", 66.0),
        ("slim", "mocov2", "resnet50", "probe", "1.0", "top5", 86.0),
        ("slim", "mocov2", "resnet50", "probe", "0.5", "top1", 60.0),
        ("slim", "mocov2", "resnet50", "transfer", "1.0", "box_ap", 37.96),
        # Three seeds: mean 67, deviations -1, 0 and 1, hence a sample standard deviation of 1.
        ("plain", "mocov2", "resnet50", "probe", "1.0", "top1", 66.0),
        ("plain", "mocov2", "resnet50", "probe", "1.0", "top1", 67.0),
        ("plain", "mocov2", "resnet50", "probe", "1.0", "top1", 68.0),
        ("random_resnet50", "random", "resnet50", "probe", "1.0", "top1", 5.25),
    ),
    REFERENCES,
)


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_summarise_averages_seeds_and_compares_with_the_first_reference():
    row = SUMMARY[SUMMARY["run"] == "plain"].iloc[0]
    assert (row["value"], row["spread"], row["n"]) == (67.0, 1.0, 3)
    assert (row["published"], row["difference"], row["source"]) == (67.5, -0.5, "some README")


def test_summarise_leaves_out_what_was_not_published():
    slim = SUMMARY[(SUMMARY["run"] == "slim")]
    assert slim["published"].isna().all(), "a context entry is not compared with"
    assert slim["spread"].isna().all(), "one seed has no spread"


def test_a_diverged_seed_is_not_averaged_away():
    rows = [("plain", "m", "a", "probe", "1.0", "top1", value) for value in (1.0, math.nan)]
    assert math.isnan(summarise(values(*rows), REFERENCES).iloc[0]["value"])


def test_probe_table():
    table = probe_table(SUMMARY, REFERENCES, {"slim": {"pretrain": ["one GPU"]}})
    assert [column.title for column in table.columns] == [
        "Run", "Width", "Top-1", "Published", "Difference", "Top-5", "Seeds",
    ]  # fmt: skip
    assert texts(table) == [
        ["slim", "1.0", "66.00", "", "", "86.00", "1"],
        ["slim", "0.5", "60.00", "", "", "", "1"],
        ["plain", "1.0", "67.00 ± 1.00", "67.5 ± 0.1", "−0.50", "", "3"],
        ["random_resnet50", "1.0", "5.25", "", "", "", "1"],
    ]
    assert table.rows[0][0].mark == "†"
    assert table.rows[2][0].mark == ""
    assert table.rows[2][3].mark == "a"
    assert Note("a", "another batch size") in table.notes


def test_probe_table_has_the_interval_of_a_single_seed():
    rows = [
        ("one", "m", "a", "probe", "1.0", *pair) for pair in (("top1", 66.0), ("top1_low", 64.5), ("top1_high", 67.5))
    ]
    rows += [
        ("two", "m", "a", "probe", "1.0", metric, value)
        for _ in "ab"
        for metric, value in (("top1", 60.0), ("top1_low", 58.0), ("top1_high", 62.0))
    ]
    table = probe_table(summarise(values(*rows), REFERENCES), REFERENCES, {})
    place = [column.title for column in table.columns].index("95 % interval")
    assert [row[place] for row in texts(table)] == ["64.50 to 67.50", ""]


def test_gain_is_over_the_random_backbone_of_the_same_architecture_and_width():
    table = gain_table(SUMMARY, {})
    assert [column.title for column in table.columns] == ["Run", "Width 1.0", "Width 0.5"]
    assert texts(table) == [["slim", "+60.75", ""], ["plain", "+61.75", ""]]


def test_gain_table_is_empty_without_a_random_backbone():
    assert gain_table(SUMMARY[SUMMARY["method"] != "random"], {}).rows == []


def test_transfer_table_does_not_compare_with_another_network():
    (row,) = texts(transfer_table(SUMMARY, REFERENCES, {}))
    assert row == ["slim", "1.0", "38.0", "", "", "", "", "", "", "", "1"]


def test_quick_table_has_a_column_for_each_setting_that_was_measured():
    rows = [
        ("slim", "mocov2", "resnet50", "quick", width, metric, value)
        for width, shift in (("1.0", 0.0), ("0.5", -10.0))
        for metric, value in (
            ("knn_top1_k200_t0.07", 41.0 + shift),
            ("knn_top1_k20_t0.1", 43.0 + shift),
            ("knn_top1_k20_t0.07", 42.0 + shift),
            ("knn_top5_k20_t0.07", 62.0 + shift),
            ("ridge_top1", 45.5 + shift),
            ("ridge_top5", 65.0 + shift),
            ("ridge_alpha", 0.1),
        )
    ]
    rows.append(("plain", "mocov2", "resnet50", "quick", "1.0", "ridge_top1", 46.0))
    table = quick_table(summarise(values(*rows), REFERENCES), {"slim": {"pretrain": ["one GPU"]}})
    assert "Not the paper's protocol" in table.caption
    assert [column.title for column in table.columns] == [
        "Run", "Width", "kNN k 20, t 0.07", "kNN k 200, t 0.07", "kNN k 20, t 0.1", "Ridge top-1", "Ridge top-5",
        "Seeds",
    ]  # fmt: skip
    assert texts(table) == [
        ["slim", "1.0", "42.00", "41.00", "43.00", "45.50", "65.00", "1"],
        ["slim", "0.5", "32.00", "31.00", "33.00", "35.50", "55.00", "1"],
        ["plain", "1.0", "", "", "", "46.00", "", "1"],
    ]
    assert [row[0].mark for row in table.rows] == ["†", "†", ""]
    assert quick_table(SUMMARY, {}).rows == []


def test_finetune_table_says_how_many_labels_were_used():
    metrics = {"top1": 48.25, "top5": 74.0, "label_percent": 1.0, "label_images": 12_811.0}
    rows = [("slim", "mocov2", "resnet50", "finetune", "0.5", metric, value) for metric, value in metrics.items()]
    table = finetune_table(summarise(values(*rows), REFERENCES), {})
    assert [column.title for column in table.columns] == [
        "Run", "Width", "Labels (%)", "Images", "Top-1", "Top-5", "Seeds",
    ]  # fmt: skip
    assert texts(table) == [["slim", "0.5", "1.00", "12811", "48.25", "74.00", "1"]]
    assert finetune_table(SUMMARY, {}).rows == []


def test_cost_table():
    assert texts(cost_table(SUMMARY)) == [
        ["resnet50", "1.0", "4.00", "100.0 %", "2.000", "100.0 %"],
        ["resnet50", "0.5", "1.00", "25.0 %", "0.500", "25.0 %"],
    ]


def test_sources_table_lists_context_with_a_remark():
    table = sources_table(["slim"], REFERENCES)
    assert texts(table) == [["slim", "COCO box AP", "38.2 at 1.0", "another"]]
    assert table.notes[0].text.startswith("not compared")


def test_reasons_are_kept_by_stage_and_not_repeated():
    def record(run: str, directory: str, stage: str, *because: str, comparable: bool = False) -> Record:
        metrics = {"schema": 1, "run": directory, "stage": stage, "widths": {"1.0": {}}}
        return Record(run, StageMetrics(**metrics, comparable=comparable, comparable_because=list(because)))

    reasons = not_comparable(
        [
            record("a", "a", "pretrain", "one GPU"),
            record("a", "a", "probe", "one GPU", "half the batch"),
            record("a", "a_seed1", "pretrain", "one GPU"),
            record("b", "b", "pretrain", comparable=True),
            record("c", "c", "pretrain"),
        ]
    )
    assert reasons == {
        "a": {"pretrain": ["one GPU"], "probe": ["half the batch"]},
        "c": {"pretrain": ["no reason was recorded"]},
    }


def test_csv_is_long_with_empty_fields():
    lines = to_csv(SUMMARY).splitlines()
    assert lines[0] == ",".join(CSV_COLUMNS)
    assert "slim,probe,1.0,top1,66,,1,,," in lines
    assert "plain,probe,1.0,top1,67,1,3,67.5,-0.5,some README" in lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (59.6, "00:01:00"), (3_725, "01:02:05"), (183_845, "2 d 03:04:05")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_measured_time_is_a_column_where_it_was_measured():
    assert [column.title for column in cost_table(SUMMARY).columns][-1] == "Share"
    times = [
        ("slim", "mocov2", "resnet50", "latency", "1.0", "latency_ms", 40.0),
        ("plain", "mocov2", "resnet50", "latency", "1.0", "latency_ms", 44.0),
    ]
    costs = [
        ("slim", "mocov2", "resnet50", "pretrain", width, metric, value)
        for width, metric, value in (("1.0", "macs", 2e9), ("0.5", "macs", 5e8))
    ]
    table = cost_table(summarise(values(*costs, *times), REFERENCES))
    assert table.columns[-1].title == "Measured (ms)"
    assert [row[-1] for row in texts(table)] == ["42", ""]
