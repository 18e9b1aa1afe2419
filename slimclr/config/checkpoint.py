"""Weights of a run that were trained elsewhere."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from slimclr.config.base import Model
from slimclr.digests import hash_in_name
from slimclr.places import in_pattern

# Below paths.raw.
RELEASED = "released"


def _below(path: str) -> str:
    """A path that does not lead out of the folder."""
    parts = PurePosixPath(path)
    if not parts.name or parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path!r} is no file below paths.raw/{RELEASED}; lay or link it there and give its name")
    return in_pattern(path)


class Checkpoint(Model):
    """Weights that were trained elsewhere, in the place of a pre-training."""

    file: Annotated[str, AfterValidator(_below)] = Field(
        description=f"Checkpoint below paths.raw/{RELEASED}, only read: what `slimclr import` takes."
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = Field(
        None, description="SHA-256 of the file, or how it begins; null: the hexadecimal tail of its name is compared."
    )
    method: Literal["mocov2", "mocov3", "simclr", "supervised", "probe"] | None = Field(
        None, description="What it must be, as its tensors tell; null: any."
    )
    url: Annotated[str, Field(pattern="^https?://[^\\s]+$", max_length=2000)] | None = Field(
        None, description="Page that gives it out, named where the file is missing. Nothing is fetched."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sha256 is None and hash_in_name(self.file) is None:
            raise ValueError(f"sha256 is missing, and the name {self.file!r} ends in no hash")
        return self
