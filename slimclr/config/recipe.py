"""One run: `config/runs/<run>.yaml`."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from slimclr.arch import CIFAR_BLOCKS
from slimclr.config.base import Model, Seed
from slimclr.config.pretrain import Pretrain
from slimclr.config.probe import Probe


class Recipe(Model):
    """One run: `config/runs/<run>.yaml`."""

    paper: bool = Field(False, description="This is a run of the paper, with the paper's values.")
    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, description="One run each; more than one gives mean and spread in the report."
    )
    pretrain: Pretrain
    probe: Probe
    transfer: bool = Field(False, description="Fine-tune this run's backbone on COCO.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = self.pretrain.method.name == "supervised"
        if own == bool(self.probe.epochs):
            wanted = "0: a supervised run's probe evaluates its own classifier" if own else "at least 1"
            raise ValueError(f"probe.epochs {self.probe.epochs} must be {wanted}")
        if self.probe.epochs and self.probe.optimizer is None:
            raise ValueError("probe.optimizer is missing")
        if self.transfer and self.pretrain.backbone.depth in CIFAR_BLOCKS:
            raise ValueError(f"transfer true: Mask R-CNN needs four stages, {self.pretrain.backbone.arch} has three")
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} names a seed twice")
        return seeds


def seeded_runs(run: str, recipe: Recipe) -> dict[str, int]:
    """Folder name -> seed of a run: the first seed keeps the run's name, so that adding seeds reruns nothing."""
    first, *others = recipe.seeds
    return {run: first} | {f"{run}_seed{seed}": seed for seed in others}
