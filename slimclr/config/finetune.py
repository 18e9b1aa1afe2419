"""Fine-tuning of one run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slimclr.config.base import Count, Model, PathName, Positive, Workers
from slimclr.config.distillation import Distillation
from slimclr.config.loader import LOADER, Backend
from slimclr.config.optimizer import Optimizer, Schedule


class FineTune(Model):
    """Fine-tuning of backbone and classifier with all labels or few."""

    epochs: Count = Field(description="Epochs over the images with labels.")
    labels: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of each class's training images, drawn by the seed, at least one: 0.01 is 1 %."
    )
    names: PathName | None = Field(
        None,
        description="Text file below paths.raw that takes the place of `labels`: names of training images, one a line, "
        "as in SimCLR's lists of 1 % and 10 %.",
    )
    widths: tuple[Positive, ...] | None = Field(
        None, min_length=1, description="Widths that are trained together and evaluated; null: all of the backbone's."
    )
    batch: Count = Field(256, description="Total batch over all GPUs.")
    optimizer: Optimizer = Field(description="Its `lr` is the backbone's.")
    head_lr: Positive | None = Field(None, description="Base learning rate of the classifier; null: the backbone's.")
    schedule: Schedule = Schedule()
    classifier: Literal["slimmable", "switchable"] = Field(
        "switchable", description="Each width has its own classifier, or sub-networks use a part of one."
    )
    distillation: Distillation | None = Field(
        None, description="Narrower widths also learn from the widest that is trained; null: from the labels alone."
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="fp16 uses a gradient scaler.")
    image_size: Count = Field(224, description="Side of a training crop and of the validation crop in pixels.")
    resize: Count = Field(256, description="Validation: the shorter side before the centre crop.")
    views: Literal["normal", "slim", "cifar_probe", "cifar_supervised"] = Field(
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
        if self.names is not None and self.labels != 1.0:
            raise ValueError(f"labels {self.labels} and names {self.names!r} both choose the images; keep one")
        if self.widths is not None and len(set(self.widths)) != len(self.widths):
            raise ValueError(f"widths {list(self.widths)} names a width twice")
        if self.distillation is not None and self.distillation.on == "features":
            raise ValueError("distillation.on features needs embeddings; fine-tuning has logits only")
        if self.distillation is not None and self.widths is not None and len(self.widths) == 1:
            raise ValueError(f"distillation needs several widths, but widths is {list(self.widths)}")
        return self
