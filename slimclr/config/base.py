"""What every section of the config is: frozen, and refused with an unknown key."""

import json
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from slimclr.places import in_pattern

PathName = Annotated[str, AfterValidator(in_pattern)]

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

Share = Annotated[float, Field(ge=0, le=1)]

# At 1 nothing new would ever count.
Momentum = Annotated[float, Field(ge=0, lt=1)]

# No setting is of use beyond these limits; a slip of the keyboard is.
Positive = Annotated[float, Field(gt=0, le=1e12)]

Count = Annotated[int, Field(ge=1, le=10**9)]

CountFrom0 = Annotated[int, Field(ge=0, le=10**9)]

Workers = Annotated[int, Field(ge=0, le=1024)]

# NumPy takes no larger one.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Model(BaseModel):
    """Frozen, without unknown keys, and without numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=Model)


def dump(model: Model) -> dict[str, Any]:
    """A section with all defaults filled in, as plain JSON values."""
    return model.model_dump(mode="json")


def nested_models(annotation: Any) -> list[type[Model]]:
    """The sections that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [model for argument in get_args(annotation) for model in nested_models(argument)]


def plain(value: Any) -> str:
    """A value as an error message shows it."""
    if isinstance(value, Model):
        value = dump(value)
    return json.dumps(value, default=str)
