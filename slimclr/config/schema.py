"""JSON schema of config and recipe, generated from the models."""

from typing import Any

from slimclr.config.pipeline import Config
from slimclr.config.recipe import Recipe


def json_schema() -> dict[str, Any]:
    """JSON schema of config and recipe, generated from the models."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slimclr",
        "$defs": {},
    }
    for model in (Config, Recipe):
        part = model.model_json_schema(ref_template="#/$defs/{model}")
        schema["$defs"] |= part.pop("$defs", {})
        schema["$defs"][model.__name__] = part
    return schema
