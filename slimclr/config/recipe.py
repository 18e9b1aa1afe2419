"""One run: `config/runs/<run>.yaml`."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from slimclr.arch import CIFAR_BLOCKS
from slimclr.config.base import Model, Seed
from slimclr.config.checkpoint import Checkpoint
from slimclr.config.finetune import FineTune
from slimclr.config.pretrain import Pretrain
from slimclr.config.probe import Probe
from slimclr.config.quick import OF_THE_PROBE, Quick


class Recipe(Model):
    """One run: `config/runs/<run>.yaml`."""

    paper: bool = Field(False, description="This is a run of the paper, with the paper's values.")
    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, description="One run each; more than one gives mean and spread in the report."
    )
    pretrain: Pretrain | None = None
    checkpoint: Checkpoint | None = None
    probe: Probe
    transfer: bool = Field(False, description="Fine-tune this run's backbone on COCO.")
    quick: Quick | None = Field(
        None, description="Quick probes in `all` and in the report; null: only the target `quick` makes them."
    )
    finetune: FineTune | None = Field(None, description="Fine-tune the backbone with labels; null: not.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.pretrain is None) == (self.checkpoint is None):
            fault = "are both missing" if self.pretrain is None else "exclude each other"
            raise ValueError(f"pretrain and checkpoint {fault}: a run's weights are trained here or brought")
        # A checkpoint that does not say what it is may have a classifier or not.
        method = self.pretrain.method.name if self.pretrain else self.checkpoint and self.checkpoint.method
        own = method in ("supervised", "probe")
        if method is not None and own == bool(self.probe.epochs):
            wanted = f"0: a {method} run's probe evaluates its own classifier" if own else "at least 1"
            raise ValueError(f"probe.epochs {self.probe.epochs} must be {wanted}")
        if self.probe.epochs and self.probe.optimizer is None:
            raise ValueError("probe.optimizer is missing")
        backbone = self.pretrain and self.pretrain.backbone
        if self.transfer and backbone and backbone.depth in CIFAR_BLOCKS:
            raise ValueError(f"transfer true: Mask R-CNN needs four stages, {backbone.arch} has three")
        widths = backbone and backbone.widths
        if self.finetune is not None and widths and not set(self.finetune.widths or ()) <= set(widths):
            raise ValueError(f"finetune.widths {list(self.finetune.widths or ())} are not all in {list(widths)}")
        return self

    @property
    def quick_section(self) -> Quick:
        """The quick probes' settings; how they read images is the linear probe's where `quick` does not say."""
        said = {} if self.quick is None else self.quick.model_dump(exclude_unset=True)
        return Quick(**{key: getattr(self.probe, key) for key in OF_THE_PROBE} | said)

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
