"""What the tables are made from: figures averaged over seeds, and the reasons against a comparison with the paper."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pandas as pd

from slimclr.reporting.references import References
from slimclr.reporting.results import Record

CSV_COLUMNS = ["run", "stage", "width", "metric", "value", "spread", "n", "published", "difference", "source"]

# Run -> stage -> why that stage's figures are not comparable with the paper.
Reasons: TypeAlias = dict[str, dict[str, list[str]]]


def summarise(values: pd.DataFrame, references: References) -> pd.DataFrame:
    """Average over seeds and put the published figures beside.

    Args:
        values: Long frame with `results.VALUE_COLUMNS`.
        references: The published figures.

    Returns:
        One row for each run, stage, width and metric, in the order of first appearance, with `CSV_COLUMNS`, `method`
        and `arch`. `value` is the mean over seeds, `spread` the sample standard deviation (NaN for one seed), `n` the
        number of seeds, `difference` is `value - published`.
    """
    keys = ["run", "method", "arch", "stage", "width", "metric"]
    rows = []
    for key, group in values.groupby(keys, sort=False)["value"]:
        run, method, arch, stage, width, metric = map(str, key)
        seeds = group.to_numpy(dtype=float)
        mean = float(np.mean(seeds))
        spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else np.nan
        reference = references.find(run, stage, metric, width)
        published = reference.widths[width] if reference else np.nan
        source = references.sources[reference.source].title if reference else ""
        rows.append(
            (run, stage, width, metric, mean, spread, len(seeds), published, mean - published, source, method, arch)
        )
    return pd.DataFrame(rows, columns=[*CSV_COLUMNS, "method", "arch"])


def not_comparable(records: Iterable[Record]) -> Reasons:
    """The reasons why runs are not comparable with the paper.

    A reason that an earlier stage of the run gave already is not repeated.
    """
    reasons: Reasons = {}
    for record in records:
        if record.metrics.comparable:
            continue
        stages = reasons.setdefault(record.run, {})
        for reason in record.metrics.comparable_because or ["no reason was recorded"]:
            if not any(reason in listed for listed in stages.values()):
                stages.setdefault(record.stage, []).append(reason)
    return reasons
