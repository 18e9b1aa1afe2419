"""Linear probes of one run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slimclr.config.base import Count, CountFrom0, Model, Positive, Share, Workers
from slimclr.config.loader import LOADER, Backend
from slimclr.config.optimizer import Optimizer, Schedule
from slimclr.config.validation import Validation


class Grid(Model):
    """Other learning rates and weight decays than the optimiser's, tried in the same pass over the data."""

    lr: tuple[Positive, ...] = Field((), description="Base learning rates besides optimizer.lr.")
    weight_decay: tuple[Share, ...] = Field((), description="Weight decays besides optimizer.weight_decay.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.lr and not self.weight_decay:
            raise ValueError("lr and weight_decay are empty; name a rate or a decay to try, or leave the grid out")
        return self


class Frozen(Model):
    """The frozen backbone with batch norm folded into its convolutions: faster, equal but for rounding."""

    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="Of weights and images; features are fp32.")
    compile: bool = Field(False, description="torch.compile, one graph per width; the first steps wait for it.")


class Probe(Model):
    """Linear probes of all widths in one pass over the frozen backbone."""

    epochs: CountFrom0 = Field(description="Epochs; 0 with a supervised run's own classifier.")
    batch: Count = Field(1024, description="Total batch over all GPUs.")
    optimizer: Optimizer | None = Field(None, description="Needed when there are epochs.")
    schedule: Schedule = Schedule()
    layer: Literal["switchable", "slimmable", "both"] = Field(
        "switchable",
        description="switchable: a linear layer per width, the paper's; slimmable: narrower widths use a part of one; "
        "both: each on the same features, the switchable one's figures being the run's.",
    )
    soft_labels: bool = Field(
        True, description="Narrower widths also learn from the full width's predictions, half and half; the paper's."
    )
    grid: Grid | None = Field(None, description="Null: the optimiser's learning rate and weight decay alone.")
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of each class's training images, drawn by the seed, that no classifier is trained on: they "
        "choose from the grid. Null: none.",
    )
    validation: Validation | None = Field(
        None, description="Top-1 and top-5 on validation images while training; they choose nothing. Null: none."
    )
    frozen: Frozen | None = Field(
        None, description="How features are computed; null: by the module as it was trained, in eval mode."
    )
    image_size: Count = Field(224, description="Side of a training crop and of the validation crop in pixels.")
    resize: Count = Field(256, description="Validation: the shorter side before the centre crop.")
    views: Literal["normal", "cifar_moco", "cifar_probe", "cifar_supervised"] = Field(
        "normal", description="Augmentation recipe; with CIFAR's, validation neither resizes nor crops."
    )
    loader: Backend = Field("torchvision", description=LOADER)
    workers: Workers = Field(8, description="Loader processes per GPU.")
    log_every: Count = Field(10, description="Steps between two lines of metrics.jsonl.")
    checkpoint_minutes: Positive = Field(
        15, description="Minutes between checkpoints within an epoch; a killed run loses no more than that."
    )
    tf32: bool = Field(True, description="GPU: convolutions and matrix products in fp32 may use TF32.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.grid is not None and self.held_out is None:
            raise ValueError("grid needs held_out, the share of the training images that choose from it, e.g. 0.02")
        if self.optimizer is not None and self.optimizer.grad_clip is not None and self.side_by_side:
            raise ValueError(
                f"optimizer.grad_clip {self.optimizer.grad_clip} would clip all classifiers together; leave it out "
                "with grid or layer both"
            )
        if not self.epochs and (self.grid or self.held_out or self.layer != "switchable" or self.validation):
            raise ValueError(
                "grid, held_out, layer and validation need epochs; a supervised run's own classifier is not trained"
            )
        return self

    @property
    def side_by_side(self) -> bool:
        """Whether several classifiers of a width are trained at once."""
        return self.grid is not None or self.layer == "both"

    @property
    def as_published(self) -> bool:
        """Whether it is the paper's probe: one switchable layer with soft labels, trained on all images."""
        return (
            not self.side_by_side
            and self.layer == "switchable"
            and self.soft_labels
            and self.held_out is None
            and self.frozen is None
        )
