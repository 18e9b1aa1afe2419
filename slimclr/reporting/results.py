"""Reading what the stages left under results/ into frames."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, Field, ValidationError, field_validator

from slimclr.errors import UserError
from slimclr.reporting.references import Stage, first_fault, is_width

VALUE_COLUMNS = ["run", "method", "arch", "stage", "width", "metric", "value"]
CURVE_COLUMNS = ["run", "directory", "epoch", "lr", "width", "loss"]

# Without these a stage has no result to report; everything else may be absent and leaves a cell empty.
_REQUIRED_METRICS = {"pretrain": (), "probe": ("top1",), "transfer": ("box_ap",)}


class Provenance(BaseModel):
    """What produced a result, as `slimclr.provenance` describes it."""

    git_commit: str | None = None
    versions: dict[str, str] = {}
    machine: str = ""
    device: str = ""
    started: str = ""
    duration_s: float | None = None


class StageMetrics(BaseModel):
    """One stage's metrics.json. Keys that the report does not use are ignored."""

    version: Literal[1] = Field(alias="schema")
    run: str
    stage: Stage | Literal["import"]
    method: str = ""
    arch: str = ""
    epochs: float | None = None
    comparable: bool = True
    comparable_because: list[str] = []
    widths: dict[str, dict[str, Any]] = Field(min_length=1)
    weights_sha256: str | None = None
    recipe_sha256: str | None = None
    provenance: Provenance = Provenance()

    @field_validator("widths")
    @classmethod
    def _widths_are_widths(cls, widths: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for width in widths:
            if not is_width(width):
                raise ValueError(f"{width!r} is not a width")
        return dict(sorted(widths.items(), key=lambda item: -float(item[0])))


@dataclass(frozen=True)
class Record:
    """One metrics.json: `run` is the configured name, `metrics.run` the directory (another one for each seed)."""

    run: str
    metrics: StageMetrics

    @property
    def stage(self) -> Stage:
        """The stage whose place the metrics take: imported weights that of a pre-training."""
        return "pretrain" if self.metrics.stage == "import" else self.metrics.stage


@dataclass(frozen=True)
class Results:
    """Everything the report shows.

    Attributes:
        records: One for each stage of each directory, in the order of the configuration.
        values: Long frame, one number a row, with `VALUE_COLUMNS`; several seeds give several rows.
        curves: Long frame of the training logs, with `CURVE_COLUMNS`.
    """

    records: list[Record]
    values: pd.DataFrame
    curves: pd.DataFrame


def read_results(results: Path, runs: dict[str, list[str]], transfer_runs: list[str]) -> Results:
    """Read the metrics of all runs.

    Args:
        results: The folder with pretrain/, probe/ and transfer/.
        runs: For each run the names of its directories, one for each seed.
        transfer_runs: The names of the directories that have a transfer stage.

    Raises:
        UserError: A file is missing or malformed, or `transfer_runs` names a directory of no run.
    """
    known = [directory for directories in runs.values() for directory in directories]
    for directory in transfer_runs:
        if directory not in known:
            raise UserError(f"transfer run {directory!r} belongs to no run of the report; runs: {', '.join(known)}")
    records: list[Record] = []
    values: list[tuple[Any, ...]] = []
    curves: list[tuple[Any, ...]] = []
    for run, directories in runs.items():
        for directory in directories:
            pretrain = read_metrics(results, "pretrain", directory)
            stages = [pretrain, read_metrics(results, "probe", directory)]
            if directory in transfer_runs:
                stages.append(read_metrics(results, "transfer", directory))
            for metrics in stages:
                record = Record(run, metrics)
                records.append(record)
                values += [
                    (run, pretrain.method, pretrain.arch, record.stage, width, name, float(value))
                    for width, entries in metrics.widths.items()
                    for name, value in entries.items()
                    if _is_number(value)
                ]
            # A random backbone is not trained and has no log.
            if pretrain.epochs != 0:
                curves += [(run, directory, *point) for point in read_curve(results, directory)]
    return Results(records, pd.DataFrame(values, columns=VALUE_COLUMNS), pd.DataFrame(curves, columns=CURVE_COLUMNS))


def read_metrics(results: Path, stage: str, directory: str) -> StageMetrics:
    """Read results/<stage>/<directory>/metrics.json.

    Raises:
        UserError: The file is missing, malformed, of another run or stage, or lacks a width's main metric.
    """
    path = results / stage / directory / "metrics.json"
    try:
        metrics = StageMetrics.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _unusable(path, stage, error.strerror or str(error)) from error
    except ValidationError as error:
        raise _unusable(path, stage, first_fault(error)) from error
    if (metrics.run, Record(directory, metrics).stage) != (directory, stage):
        raise _unusable(path, stage, f"holds run {metrics.run!r}, stage {metrics.stage!r}")
    for width, entries in metrics.widths.items():
        for name in _REQUIRED_METRICS[stage]:
            if not _is_number(entries.get(name)):
                raise _unusable(path, stage, f"width {width} has no number for {name!r}")
    return metrics


def read_curve(results: Path, directory: str) -> list[tuple[float, float, str, float]]:
    """Read results/pretrain/<directory>/metrics.jsonl into (epoch, learning rate, width, loss) tuples.

    Raises:
        UserError: The file is missing, or a line is not what the training loop writes.
    """
    path = results / "pretrain" / directory / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, "pretrain", getattr(error, "strerror", None) or str(error)) from error
    points = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            epoch, rate = float(entry["epoch"]), float(entry["lr"])
            points += [(epoch, rate, width, float(values["loss"])) for width, values in entry["widths"].items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fault = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise _unusable(path, "pretrain", f"line {number}: {fault}") from error
    return points


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unusable(path: Path, stage: str, fault: str) -> UserError:
    # Snakemake wants the path as its rules spell it, and the log has no target of its own.
    target = path.with_name("metrics.json")
    return UserError(f"{path}: {fault}; run the rule {stage} again: snakemake --force {target}")
