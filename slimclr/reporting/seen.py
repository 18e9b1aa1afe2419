"""Accuracies that were recorded while a training went on."""

from pathlib import Path
from typing import Any

import pandas as pd

from slimclr.reporting.results import CurveLine, Record

SEEN_COLUMNS = ["run", "stage", "kind", "epoch", "width", "top1"]


def read_seen(results: Path, records: list[Record]) -> pd.DataFrame:
    """Top-1 by epoch and width of every directory that recorded any.

    Args:
        results: The folder with pretrain/ and probe/.
        records: What was read from there, with logs that `read_curve` took.

    Returns:
        Long frame with `SEEN_COLUMNS`: `run` is the directory, `kind` is val (validation images), or knn_val and knn
        (validation and training images, classified by their neighbours).
    """
    rows: list[tuple[Any, ...]] = []
    for record in records:
        run = record.metrics.run
        rows += [
            (run, record.stage, "val", seen.epoch, width, top.top1)
            for seen in record.metrics.validation
            for width, top in seen.widths.items()
        ]
        if record.stage != "pretrain" or record.metrics.epochs == 0:
            continue
        for text in (results / "pretrain" / run / "metrics.jsonl").read_bytes().splitlines():
            line = CurveLine.model_validate_json(text)
            own = {width: top.top1 for width, top in (line.val or {}).items()}
            for kind, accuracies in (("val", own), ("knn_val", line.knn_val or {}), ("knn", line.knn or {})):
                rows += [(run, record.stage, kind, line.epoch, width, top1) for width, top1 in accuracies.items()]
    return pd.DataFrame(rows, columns=SEEN_COLUMNS)
