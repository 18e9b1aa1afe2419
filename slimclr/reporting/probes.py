"""What a linear probe's metrics.json says of its choices: layers, rates, and how it went on the way."""

from typing import Annotated

from pydantic import BaseModel, Field

from slimclr.reporting.values import Amount, Text, Width

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class Top(BaseModel):
    """Accuracies in percent."""

    top1: Percent
    top5: Percent | None = None


class Choice(BaseModel):
    """The rate and decay that a width's classifier was trained with."""

    lr: Rate
    weight_decay: Amount


class Layer(BaseModel):
    """Classifiers of one kind.

    Attributes:
        widths: On the validation images, trained with what was chosen.
        chosen: What was chosen.
        published: On the validation images, trained with the optimiser's own rate; None where that diverged.
    """

    widths: dict[Width, Top]
    chosen: dict[Width, Choice]
    published: dict[Width, Top] | None = None


class Tried(BaseModel):
    """What was tried, and how it did on held-out training images; None where it diverged."""

    layer: Text
    lr: Rate
    weight_decay: Amount
    held_out: dict[Width, Top] | None = None


class Seen(BaseModel):
    """Accuracies on validation images after so many epochs."""

    epoch: Amount
    widths: dict[Width, Top]
