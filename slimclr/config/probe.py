"""Linear probes of one run."""

from typing import Literal

from pydantic import Field

from slimclr.config.base import Count, CountFrom0, Model, Positive, Workers
from slimclr.config.loader import LOADER, Backend
from slimclr.config.optimizer import Optimizer, Schedule


class Probe(Model):
    """Linear probes of all widths in one pass over the frozen backbone."""

    epochs: CountFrom0 = Field(description="Epochs; 0 with a supervised run's own classifier.")
    batch: Count = Field(1024, description="Total batch over all GPUs.")
    optimizer: Optimizer | None = Field(None, description="Needed when there are epochs.")
    schedule: Schedule = Schedule()
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
