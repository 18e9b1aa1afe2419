"""What the lines of a training's log have beside its losses: gradient records, rate, waiting, memory."""

from pathlib import Path
from typing import Any

import pandas as pd

from slimclr.reporting.results import RATE_COLUMNS, CurveLine, Gradients, Record

GRADIENT_COLUMNS = ["directory", "kind", "widths", "epoch", "value"]


def read_logged(results: Path, records: list[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gradient records, and rates, of every training.

    Args:
        results: The folder with pretrain/.
        records: What was read from there, with logs that `read_curve` took.

    Returns:
        Long frame with `GRADIENT_COLUMNS`: `kind` is norm_used, norm_rest or ratio (`widths`: the width), cosine
        (`widths`: wider/narrower), singular_1 or singular_2; what was not finite is left out. Frame with
        `RATE_COLUMNS`, a row for each line of training.
    """
    gradients: list[tuple[Any, ...]] = []
    rates: list[tuple[Any, ...]] = []
    for record in records:
        directory = record.metrics.run
        if record.stage != "pretrain" or record.metrics.epochs == 0:
            continue
        for text in (results / "pretrain" / directory / "metrics.jsonl").read_bytes().splitlines():
            line = CurveLine.model_validate_json(text)
            if line.lr is not None:
                rates.append((directory, line.images_per_s, line.data_wait, line.memory_mb))
            if line.gradients is not None:
                gradients += [(directory, *entry) for entry in _entries(line.epoch, line.gradients)]
    return pd.DataFrame(gradients, columns=GRADIENT_COLUMNS), pd.DataFrame(rates, columns=RATE_COLUMNS)


def _entries(epoch: float, gradients: Gradients) -> list[tuple[str, str, float, float]]:
    found = [(kind, width, value) for width, one in gradients.widths.items() for kind, value in one.items()]
    found += [("cosine", pair, value) for pair, value in gradients.cosine.items()]
    found += [(kind, "", value) for kind, value in gradients.last_layer.items()]
    return [(kind, widths, epoch, value) for kind, widths, value in found if value is not None]
