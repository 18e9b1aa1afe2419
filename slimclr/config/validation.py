"""Validation while a training goes on."""

from pydantic import Field

from slimclr.config.base import Count, Model, Positive


class Validation(Model):
    """Top-1 and top-5 of every width on validation images while a training goes on, to watch it by."""

    every: Count = Field(1, description="Epochs between two evaluations.")
    images: Count | None = Field(
        None, description="Validation images, drawn by the seed, the same ones each time; null: all."
    )


class Online(Model):
    """A linear classifier of every width that learns beside a self-supervised training, which does not notice."""

    lr: Positive = Field(0.1, description="Learning rate of its SGD with momentum 0.9, constant.")
