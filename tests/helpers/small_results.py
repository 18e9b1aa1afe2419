"""Results of three small runs, one of them with two seeds, and the report over them."""

import json
from pathlib import Path
from typing import Any

from slimclr.reporting import write_report

RUNS = {"slim": ["slim", "slim_seed1"], "plain": ["plain"], "random_resnet50": ["random_resnet50"]}
WIDTHS = {"slim": ["1.0", "0.5"], "plain": ["1.0"], "random_resnet50": ["1.0", "0.5"]}
STAGES = {"probe": [name for names in RUNS.values() for name in names], "transfer": ["plain"]}
REFERENCES = """
sources: {readme: {title: some README, url: "https://example.org"}}
references:
  - {run: plain, stage: probe, metric: top1, widths: {"1.0": 67.5}, source: readme}
"""


def write_results(tmp_path: Path) -> Path:
    """Results of `RUNS` and references.yaml beside them."""
    folder = tmp_path / "results"
    for run, directories in RUNS.items():
        random = run.startswith("random")
        for seed, directory in enumerate(directories):
            head = {
                "schema": 1,
                "run": directory,
                "seed": seed,
                "method": "random" if random else "mocov2",
                "arch": "resnet50",
                "epochs": 0 if random else 2,
                "comparable": run != "slim",
                "comparable_because": ["one <GPU>"] if run == "slim" else [],
                "recipe_sha256": "0123456789abcdef" * 4,
                "weights_sha256": "f" * 64,
                "provenance": {
                    "git_commit": "abc123",
                    "versions": {"torch": "2.13.0"},
                    "machine": "box",
                    "device": "CPU",
                    "started": "2026-01-02T03:04:05+00:00",
                    "duration_s": 61.0,
                },
            }
            costs = {width: {"params": 4e6 * float(width), "macs": 2e9 * float(width)} for width in WIDTHS[run]}
            put(folder / "pretrain" / directory / "metrics.json", head | {"stage": "pretrain", "widths": costs})
            accuracies = {width: {"top1": 66.0 * float(width) + seed, "top5": 88.0} for width in WIDTHS[run]}
            put(folder / "probe" / directory / "metrics.json", head | {"stage": "probe", "widths": accuracies})
            if not random:
                log = [
                    {"step": step, "epoch": step / 2, "lr": 0.1, "loss": 7.0, "widths": {"1.0": {"loss": 7.0 - step}}}
                    for step in range(4)
                ]
                text = "".join(json.dumps(line) + "\n" for line in log)
                (folder / "pretrain" / directory / "metrics.jsonl").write_text(text)
    transfer = {"schema": 1, "run": "plain", "stage": "transfer", "widths": {"1.0": {"box_ap": 38.0, "mask_ap": 34.0}}}
    put(folder / "transfer" / "plain" / "metrics.json", transfer | {"weights_sha256": "f" * 64})
    (tmp_path / "references.yaml").write_text(REFERENCES)
    return folder


def put(path: Path, value: dict) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write(results: Path, out: str = "report", **changes: Any) -> Path:
    """The report over them."""
    arguments = {
        "runs": RUNS,
        "stages": STAGES,
        "references": [results.parent / "references.yaml"],
        "config_sha256": "9" * 64,
        "config_name": "config/demo.yaml",
    }
    write_report(results, results.parent / out, **arguments | changes)
    return results.parent / out
