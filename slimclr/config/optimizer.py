"""Optimiser and schedule of a recipe."""

from typing import Literal, Self

from pydantic import Field, model_validator

from slimclr.config.base import Count, Model, Momentum, Positive, Share


class Optimizer(Model):
    """What moves the weights; weight decay applies to every parameter (LARS: of two or more dimensions)."""

    name: Literal["sgd", "lars"] = Field("sgd", description="sgd or lars.")
    lr: Positive = Field(description="Base learning rate for the total batch; it stays whatever the number of GPUs.")
    momentum: Momentum = Field(0.9, description="Momentum.")
    weight_decay: Share = Field(1e-4, description="Weight decay.")
    trust: Positive = Field(0.001, description="LARS: trust coefficient.")
    grad_clip: Positive | None = Field(None, description="Greatest norm of the whole gradient; null: not clipped.")


class Schedule(Model):
    """Learning rate over the steps."""

    name: Literal["cosine", "step", "polynomial"] = Field(
        "cosine", description="Half a cosine to 1e-8, drops at milestones, or a polynomial to 1e-8."
    )
    warmup: Share = Field(0.0, description="Linear warm-up, share of all steps.")
    slim_start_lr: Positive | None = Field(
        None, description="Base learning rate from slow start on; null keeps the base rate."
    )
    milestones: tuple[Count, ...] = Field((), description="step: epochs after which the rate is multiplied by gamma.")
    gamma: Positive = Field(0.1, description="step: the factor.")
    power: Positive = Field(1.0, description="polynomial: the power; 1 is a straight line.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.name == "step") != bool(self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} go with name: step, and with nothing else")
        return self
