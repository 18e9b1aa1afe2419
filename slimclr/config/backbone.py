"""The network of a recipe."""

from typing import Self

from pydantic import Field, model_validator

from slimclr.arch import CIFAR_BLOCKS, DEPTHS, arch_name, width_channels
from slimclr.config.base import Count, Model, Positive


class Backbone(Model):
    """A slimmable ResNet."""

    depth: int = Field(
        50,
        description="Layers: 50, 101, 152, or 14 and 26 for trying out; 20, 32, 44, 56, 110 are CIFAR's networks.",
    )
    base_width: Count = Field(
        64,
        description="Channels of the first convolution at width 1.0; with CIFAR's networks 16 times the width factor.",
    )
    widths: tuple[Positive, ...] = Field(
        (1.0, 0.75, 0.5, 0.25), description="Width multipliers, 1.0 among them; each must give whole channels."
    )
    overlap: bool = Field(
        True,
        description="A sub-network has the first channels; false: sub-networks share no channel with each other, and "
        "their widths add up to 1 at most.",
    )
    zero_init_residual: bool = Field(True, description="The last batch norm of every block starts at 0.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.depth not in DEPTHS:
            raise ValueError(f"depth {self.depth} is not one of {', '.join(map(str, DEPTHS))}")
        for width in self.widths:
            try:
                width_channels(self.base_width, width)
            except ValueError as error:
                raise ValueError(
                    f"widths {list(self.widths)}: {error}; choose multiples of 1/{self.base_width}"
                ) from None
        if len(set(self.widths)) != len(self.widths):
            raise ValueError(f"widths {list(self.widths)} names a width twice")
        if max(self.widths, default=0) != 1.0:
            raise ValueError(f"widths {list(self.widths)} must have 1.0, the full network, as the largest")
        if not self.overlap and sum(self.widths) > 2:
            raise ValueError(f"overlap false: widths {list(self.widths)} below 1.0 add up to more than 1")
        return self

    @property
    def features(self) -> dict[float, int]:
        """Features of an image by width."""
        stages, expansion = (3, 1) if self.depth in CIFAR_BLOCKS else (4, 4)
        return {width: round(self.base_width * 2 ** (stages - 1) * expansion * width) for width in self.widths}

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return arch_name(self.depth, self.base_width)
