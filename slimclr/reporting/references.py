"""The published figures that the report compares with (config/references.yaml)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from slimclr.config import read_yaml
from slimclr.errors import UserError
from slimclr.reporting.values import Text, Width, check_figure, first_fault

Stage = Literal["pretrain", "probe", "quick", "finetune", "transfer", "latency"]

# Only the web's addresses become links, and none has a character that could end a link in HTML or Markdown.
Address = Annotated[
    str, Field(max_length=2000, pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]+)?([/?#][A-Za-z0-9._~:/?#@!$&*+,;=%-]*)?$")
]


class Source(BaseModel):
    """Where a figure was published."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: Text = Field(min_length=1)
    url: Address | None = None


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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    run: Text
    stage: Stage
    metric: Text
    widths: dict[Width, float] = Field(min_length=1)
    source: str
    spread: float | None = Field(None, ge=0, le=1e6)
    note: Text | None = None
    context: bool = False

    @model_validator(mode="after")
    def _figures_are_possible(self) -> "Reference":
        for width, value in self.widths.items():
            check_figure(self.metric, value, f"{self.run}, width {width}: ")
        return self


class References(BaseModel):
    """All sources and the figures taken from them, in the order of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sources: dict[str, Source] = {}
    references: list[Reference]

    @model_validator(mode="after")
    def _sources_are_known(self, info: ValidationInfo) -> "References":
        known = self.sources | (info.context or {}).get("sources", {})
        for entry in self.references:
            if entry.source not in known:
                raise ValueError(f"{entry.run}, {entry.metric}: source {entry.source!r} is none of {', '.join(known)}")
        return self

    def find(self, run: str, stage: str, metric: str, width: str) -> Reference | None:
        """The figure to compare with: the first entry that gives this width and is not mere context."""
        for entry in self.references:
            key = (entry.run, entry.stage, entry.metric)
            if key == (run, stage, metric) and width in entry.widths and not entry.context:
                return entry
        return None


def load_references(*paths: Path) -> References:
    """Read and check files of published figures.

    Args:
        paths: The files. A later file may name an earlier one's sources, and its figures come before that one's.

    Raises:
        UserError: A file is missing, is not YAML, or has an unknown key, an unknown source or a figure that is none.
    """
    sources: dict[str, Source] = {}
    entries: list[Reference] = []
    for path in paths:
        try:
            found = References.model_validate(read_yaml(path), context={"sources": sources})
        except ValidationError as error:
            raise UserError(f"{path}: {first_fault(error)}; correct it in this file") from None
        sources |= found.sources
        entries = found.references + entries
    return References(sources=sources, references=entries)
