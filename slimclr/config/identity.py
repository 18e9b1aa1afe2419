"""Which settings decide a result, and which only how it is computed."""

import hashlib
import json
from typing import Any

from slimclr.config.base import Model

# How a section's training runs or where a file is given out, not what comes out of it: where these change, nothing is
# computed again.
OPERATIONAL = (
    "workers",
    "log_every",
    "checkpoint_minutes",
    "keep_every_epochs",
    "keep_state",
    "compile",
    "activation_checkpointing",
    "url",
)


def decisive(model: Model) -> dict[str, Any]:
    """What decides a section's results, as plain JSON values.

    Without `OPERATIONAL`, and without defaults: a key that a later version adds changes no section that lacks it.
    """
    values = model.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in values.items() if key not in OPERATIONAL}


def operational(model: Model) -> dict[str, Any]:
    """The rest of `decisive`: values of `OPERATIONAL` that are no defaults."""
    values = model.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in values.items() if key in OPERATIONAL}


def fingerprint(model: Model) -> str:
    """SHA-256 of what decides a section's results; comments, order and spelled-out defaults do not change it."""
    return hashlib.sha256(json.dumps(decisive(model), sort_keys=True).encode()).hexdigest()
