"""The tables of the report, one in each file with its words, as values that the layouts turn into text."""

from collections.abc import Sequence

import pandas as pd

from slimclr.reporting.references import References
from slimclr.reporting.results import Record
from slimclr.reporting.summary import Reasons
from slimclr.reporting.tables.checkpoints import Absent, checkpoints_table
from slimclr.reporting.tables.comparability import comparability_table
from slimclr.reporting.tables.cost import cost_table
from slimclr.reporting.tables.finetune import finetune_table
from slimclr.reporting.tables.gain import gain_table
from slimclr.reporting.tables.layers import layers_table
from slimclr.reporting.tables.probe import probe_table
from slimclr.reporting.tables.provenance import provenance_table
from slimclr.reporting.tables.quick import quick_table
from slimclr.reporting.tables.sources import sources_table
from slimclr.reporting.tables.speed import speed_table
from slimclr.reporting.tables.table import Table
from slimclr.reporting.tables.transfer import transfer_detail_table, transfer_table


def report_tables(
    summary: pd.DataFrame,
    references: References,
    reasons: Reasons,
    records: list[Record],
    logged: pd.DataFrame,
    runs: list[str],
    absent: Sequence[Absent] = (),
) -> list[Table]:
    """The report's tables in order, without those that have no rows.

    Args:
        summary: Frame of `summary.summarise`.
        references: The published figures.
        reasons: What `summary.not_comparable` found.
        records: One for each stage of each directory.
        logged: Frame with `results.RATE_COLUMNS`.
        runs: Names of the configuration's runs.
        absent: Checkpoints that were not there.
    """
    tables = [
        comparability_table(reasons),
        probe_table(summary, references, reasons),
        layers_table(records),
        checkpoints_table(summary, references, records, absent),
        gain_table(summary, reasons),
        quick_table(summary, reasons),
        finetune_table(summary, reasons),
        transfer_table(summary, references, reasons),
        transfer_detail_table(summary, reasons),
        cost_table(summary),
        speed_table(records, logged),
        sources_table(runs, references),
        provenance_table(records),
    ]
    return [table for table in tables if table.rows]
