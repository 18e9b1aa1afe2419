"""A validation error as one line per mistake: the key's path, the value and what is allowed."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from slimclr.config.base import M, Model, nested_models, plain
from slimclr.config.method import METHOD_NAMES
from slimclr.errors import UserError


def validated(model: type[M], value: Mapping[str, Any], name: str) -> M:
    """Values as a section of the config; a UserError has one line per mistake."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors()
        # An entry that is refused does not count for its list either, which pydantic then calls too short.
        refused = {fault["loc"][:-1] for fault in faults}
        details = [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in refused]
        # A misspelt key is also a missing one; the line about the spelling says it all.
        lines = [_line(model, detail, name) for detail in details]
        told = [line for line, detail in zip(lines, details, strict=True) if detail["type"] == "extra_forbidden"]
        lines = [
            line
            for line, detail in zip(lines, details, strict=True)
            if detail["type"] != "missing"
            or not any(f"did you mean {str(detail['loc'][-1])!r}" in told_ for told_ in told)
        ]
        raise UserError("\n".join(lines)) from None


def _line(model: type[Model], detail: Any, name: str) -> str:
    # A tagged union puts the tag into the path (method.mocov2.dim); the user wrote method.dim.
    loc = [part for part in detail["loc"] if part not in METHOD_NAMES]
    key = ".".join(map(str, loc))
    where = f"{name}: {key}" if key else name
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_fields(model, detail["loc"][:-1]))
        return f"{where}: unknown key{did_you_mean(str(loc[-1]), allowed)}; allowed: {', '.join(allowed)}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("value_error", "missing"):
        return f"{where}: {message}"
    return f"{where}: {message}, but it is {plain(detail['input'])}"


def _fields(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the (nested) model that an error's path points at."""
    members: list[Any] = [model]
    for part in loc:
        below: list[Any] = []
        for member in members:
            if part in member.model_fields:
                below += nested_models(member.model_fields[part].annotation)
            elif "name" in member.model_fields and member.model_fields["name"].annotation == Literal[part]:
                below.append(member)
        # A part that names no field is a key of a dictionary.
        members = below or members
    return [name for member in members for name in member.model_fields]


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint at the nearest of the known words, where one is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
