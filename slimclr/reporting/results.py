"""Reading what the stages left under results/ into frames."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.reporting.probes import Layer, Percent, Seen, Top, Tried
from slimclr.reporting.references import Stage
from slimclr.reporting.values import (
    SHA256,
    Amount,
    Loss,
    Text,
    Time,
    Width,
    check_figure,
    first_fault,
    is_number,
)

VALUE_COLUMNS = ["run", "method", "arch", "stage", "width", "metric", "value"]
CURVE_COLUMNS = ["run", "directory", "epoch", "lr", "width", "loss"]
RATE_COLUMNS = ["directory", "images_per_s", "data_wait", "memory_mb"]

# Without these a stage has no result to report; everything else may be absent and leaves a cell empty.
_REQUIRED_METRICS = {
    "pretrain": (),
    "probe": ("top1",),
    "quick": ("ridge_top1",),
    "finetune": ("top1",),
    "transfer": ("box_ap",),
    "latency": ("latency_ms",),
}


class Provenance(BaseModel):
    """What produced a result, as `slimclr.provenance` describes it."""

    git_commit: Text | None = None
    versions: dict[Text, Text] = {}
    machine: Text = ""
    device: Text = ""
    started: Time = ""
    duration_s: Amount | None = None


class StageMetrics(BaseModel):
    """One stage's metrics.json. Keys that the report does not use are ignored."""

    version: Literal[1] = Field(alias="schema")
    run: Text
    stage: Stage | Literal["import"]
    method: Text = ""
    arch: Text = ""
    epochs: Amount | None = None
    comparable: bool = True
    comparable_because: list[Text] = []
    widths: dict[Width, dict[Text, Any]] = Field(min_length=1)
    weights_sha256: SHA256 | None = None
    recipe_sha256: SHA256 | None = None
    layers: dict[Text, Layer] = {}
    grid: list[Tried] = []
    validation: list[Seen] = []
    source: Text = ""
    provenance: Provenance = Provenance()

    @field_validator("widths")
    @classmethod
    def _from_the_widest(cls, widths: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return dict(sorted(widths.items(), key=lambda item: -float(item[0])))

    @model_validator(mode="after")
    def _figures_are_possible(self) -> Self:
        for width, figures in self.widths.items():
            for metric, value in figures.items():
                if is_number(value):
                    check_figure(metric, value, f"widths.{width}.")
        return self


class CurvePoint(BaseModel):
    """A width's part of a line of metrics.jsonl."""

    loss: Loss


class Gradients(BaseModel):
    """A gradient record, as `slimclr.analysis.gradients` makes it; what was not finite is null."""

    widths: dict[Width, dict[Text, Loss | None]]
    cosine: dict[Text, Loss | None]
    last_layer: dict[Text, Loss | None]


class CurveLine(BaseModel):
    """A line of metrics.jsonl; the one of an evaluation has neither rate nor losses."""

    epoch: Amount
    knn: dict[Width, Percent] | None = None
    knn_val: dict[Width, Percent] | None = None
    val: dict[Width, Top] | None = None
    lr: Amount | None = None
    widths: dict[Width, CurvePoint] = {}
    gradients: Gradients | None = None
    images_per_s: Amount | None = None
    data_wait: Annotated[float, Field(ge=0, le=1)] | None = None
    memory_mb: Amount | None = None

    @model_validator(mode="after")
    def _has_losses(self) -> Self:
        if self.knn is None and self.val is None and (self.lr is None or not self.widths):
            raise ValueError(f"no key {'lr' if self.lr is None else 'widths'!r}")
        return self


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


def read_results(results: Path, runs: dict[str, list[str]], stages: Mapping[str, Sequence[str]]) -> Results:
    """Read the metrics of all runs.

    Args:
        results: The folder with pretrain/, probe/ and further stages'.
        runs: For each run the names of its directories, one for each seed.
        stages: For each stage behind pre-training the names of the directories that have it.

    Raises:
        UserError: A file is missing or malformed, a run's stages were made of different weights or its seeds by
            different methods, two runs have one directory, or `stages` names a directory of no run.
    """
    known = [directory for directories in runs.values() for directory in directories]
    for directory in known:
        if known.count(directory) > 1:
            raise UserError(f"two runs of the report have results of the name {directory!r}; rename one")
    for stage, directories in stages.items():
        for directory in directories:
            if directory not in known:
                raise UserError(f"{stage} run {directory!r} belongs to no run of the report; runs: {', '.join(known)}")
    records: list[Record] = []
    values: list[tuple[Any, ...]] = []
    curves: list[tuple[Any, ...]] = []
    for run, directories in runs.items():
        first: StageMetrics | None = None
        for directory in directories:
            own = _read_stages(results, directory, [stage for stage, asked in stages.items() if directory in asked])
            pretrain = own[0]
            first = first or pretrain
            if (pretrain.method, pretrain.arch) != (first.method, first.arch):
                raise _other_method(results, first, pretrain)
            for metrics in own:
                record = Record(run, metrics)
                records.append(record)
                values += [
                    (run, pretrain.method, pretrain.arch, record.stage, width, name, float(value))
                    for width, entries in metrics.widths.items()
                    for name, value in entries.items()
                    if is_number(value)
                ]
            # A random backbone is not trained and has no log.
            if pretrain.epochs != 0:
                curves += [(run, directory, *point) for point in read_curve(results, directory)]
    return Results(records, pd.DataFrame(values, columns=VALUE_COLUMNS), pd.DataFrame(curves, columns=CURVE_COLUMNS))


def _read_stages(results: Path, directory: str, stages: list[str]) -> list[StageMetrics]:
    """Pre-training's metrics and those of what was made of its weights."""
    pretrain, *others = [read_metrics(results, stage, directory) for stage in ("pretrain", *stages)]
    for metrics in others:
        if metrics.weights_sha256 != pretrain.weights_sha256:
            raise _other_weights(results, pretrain, metrics)
    return [pretrain, *others]


def _other_weights(results: Path, pretrain: StageMetrics, other: StageMetrics) -> UserError:
    """A run's stages speak of different weights: which of them to make again is decided by the weights themselves."""
    folder = results / "pretrain" / pretrain.run
    weights = folder / "weights.safetensors"
    path = results / other.stage / other.run / "metrics.json"
    used, made = ((metrics.weights_sha256 or "unknown")[:12] for metrics in (other, pretrain))
    fault = f"is about the weights {used}, but {folder / 'metrics.json'} ({pretrain.stage}) about {made}"
    if not weights.is_file() or sha256(weights) != other.weights_sha256:
        return _unusable(path, other.stage, fault)
    if pretrain.stage == "import":
        command = shlex.join(["slimclr", "import", str(weights), "--out", str(folder)])
        return UserError(f"{path}: {fault}; import the weights that are there again: {command}")
    return UserError(f"{path}: {fault}; run the rule pretrain again: snakemake --force {folder / 'metrics.json'}")


def _other_method(results: Path, first: StageMetrics, other: StageMetrics) -> UserError:
    """Seeds of one run that have nothing to be averaged."""
    path = results / "pretrain" / other.run / "metrics.json"
    own, theirs = (f"{seed.method!r} on {seed.arch!r}" for seed in (other, first))
    return _unusable(path, "pretrain", f"is of {own}, but {first.run}, another seed of the same run, of {theirs}")


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
            if not is_number(entries.get(name)):
                raise _unusable(path, stage, f"width {width} has no number for {name!r}")
    return metrics


def read_curve(results: Path, directory: str) -> list[tuple[float, float, str, float]]:
    """Read results/pretrain/<directory>/metrics.jsonl into (epoch, learning rate, width, loss) tuples.

    Raises:
        UserError: The file is missing, or a line is not what the training loop writes.
    """
    path = results / "pretrain" / directory / "metrics.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise _unusable(path, "pretrain", error.strerror or str(error)) from error
    points = []
    for number, text in enumerate(lines, start=1):
        try:
            line = CurveLine.model_validate_json(text)
        except ValidationError as error:
            raise _unusable(path, "pretrain", f"line {number}: {first_fault(error)}") from error
        if line.lr is not None:
            points += [(line.epoch, line.lr, width, point.loss) for width, point in line.widths.items()]
    return points


def _unusable(path: Path, stage: str, fault: str) -> UserError:
    # Snakemake wants the path as its rules spell it, and the log has no target of its own.
    target = path.with_name("metrics.json")
    return UserError(f"{path}: {fault}; run the rule {stage} again: snakemake --force {target}")
