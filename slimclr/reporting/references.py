"""The published figures that the report compares with (config/references.yaml)."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from slimclr.errors import UserError

Stage = Literal["pretrain", "probe", "transfer"]


class Source(BaseModel):
    """Where a figure was published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    url: str | None = None


class Reference(BaseModel):
    """Published figures of one metric for one run, by width.

    Attributes:
        run: Name of the run in the configuration.
        stage: Stage whose metric it is.
        metric: Name of the metric in that stage's metrics.json.
        widths: Figure for each width; accuracies in percent, AP times 100.
        source: Key of `References.sources`.
        spread: The published plus-minus, in the same unit.
        note: What differs from the run here.
        context: Measured on another network or by another recipe: listed among the sources, no difference taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    stage: Stage
    metric: str
    widths: dict[str, FiniteFloat] = Field(min_length=1)
    source: str
    spread: FiniteFloat | None = None
    note: str | None = None
    context: bool = False

    @field_validator("widths")
    @classmethod
    def _canonical_widths(cls, widths: dict[str, float]) -> dict[str, float]:
        for width in widths:
            if not is_width(width):
                raise ValueError(f'{width!r} is not a width; write it as "1.0" or "0.25"')
        return widths


class References(BaseModel):
    """All sources and the figures taken from them, in the order of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: dict[str, Source]
    references: list[Reference]

    @model_validator(mode="after")
    def _sources_are_known(self) -> "References":
        for entry in self.references:
            if entry.source not in self.sources:
                raise ValueError(
                    f"{entry.run}, {entry.metric}: source {entry.source!r} is none of {', '.join(self.sources)}"
                )
        return self

    def find(self, run: str, stage: str, metric: str, width: str) -> Reference | None:
        """The figure to compare with: the first entry that gives this width and is not mere context."""
        for entry in self.references:
            key = (entry.run, entry.stage, entry.metric)
            if key == (run, stage, metric) and width in entry.widths and not entry.context:
                return entry
        return None


def is_width(text: str) -> bool:
    """Whether `text` is a width multiplier as files spell it: `str(float)` of a positive number."""
    try:
        return float(text) > 0 and str(float(text)) == text
    except ValueError:
        return False


def load_references(path: Path) -> References:
    """Read and check a file of published figures.

    Raises:
        UserError: The file is missing, is not YAML, or has an unknown key, an unknown source or a figure that is none.
    """
    try:
        return References.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the published figures in {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, as `where: what`."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    what = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
