"""Quick probes of one run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slimclr.config.base import Count, Model, Positive, Workers
from slimclr.config.loader import LOADER, Backend

# What a recipe's `quick` leaves out here it takes from its `probe`.
OF_THE_PROBE = ("image_size", "resize", "views", "loader", "workers", "tf32")


class Quick(Model):
    """Quick probes: nearest neighbours and ridge on the frozen backbone's features. Not the paper's protocol."""

    neighbours: tuple[Count, ...] = Field(
        (10, 20, 100, 200), min_length=1, description="Nearest training images that vote; each number is evaluated."
    )
    temperatures: tuple[Positive, ...] = Field(
        (0.07, 0.1), min_length=1, description="A vote's weight is exp(cosine / temperature); each is evaluated."
    )
    penalties: tuple[Positive, ...] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        min_length=1,
        description="Ridge's penalties, in units of the features' mean variance times the number of images; the best "
        "on held-out training images is taken.",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Share of the training images that choose the penalty; they train the final classifier, too."
    )
    logistic: bool = Field(
        False,
        description="scikit-learn's logistic regression, too: all features of a width in memory, hours for "
        "ImageNet. scikit-learn is not in the locks: install it.",
    )
    batch: Count = Field(256, description="Images of a forward pass of each process.")
    image_size: Count = Field(224, description="Side of the centre crop in pixels; left out: the probe's.")
    resize: Count = Field(256, description="The shorter side before the crop; left out: the probe's.")
    views: Literal["normal", "cifar_moco", "cifar_probe", "cifar_supervised"] = Field(
        "normal", description="As validation of the probe of that name; left out: the probe's."
    )
    loader: Backend = Field("torchvision", description=f"{LOADER} Left out: the probe's.")
    workers: Workers = Field(8, description="Loader processes per GPU; left out: the probe's.")
    tf32: bool = Field(True, description="GPU: the backbone may use TF32; left out: the probe's.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("neighbours", "temperatures", "penalties"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} {list(values)} names a value twice")
        return self
