"""What stages write into `metrics.json`."""

from typing import Any

from slimclr.config import Model, fingerprint
from slimclr.nn import SlimmableResNet
from slimclr.nn.counts import count_macs, count_parameters
from slimclr.provenance import provenance

SCHEMA = 1


def identity(stage: str, run: str, seed: int | None) -> dict[str, Any]:
    """Which run a file belongs to."""
    return {"schema": SCHEMA, "run": run, "stage": stage, "seed": seed}


def document(
    stage: str,
    *,
    run: str,
    seed: int | None,
    recipe: Model | None,
    data: dict[str, str] | None,
    weights_sha256: str,
    started: float,
    **values: Any,
) -> dict[str, Any]:
    """The content of a stage's `metrics.json`.

    Args:
        stage: pretrain, import, probe or transfer.
        run: The run's name.
        seed: Its seed.
        recipe: The section that the stage carried out.
        data: SHA-256 of what was read, by name.
        weights_sha256: SHA-256 of the backbone's weights file.
        started: `time.time()` at the stage's start.
        values: The stage's own results.
    """
    return {
        **identity(stage, run, seed),
        **values,
        "weights_sha256": weights_sha256,
        "recipe_sha256": None if recipe is None else fingerprint(recipe),
        **({} if data is None else {"data_sha256": data}),
        "provenance": provenance(started),
    }


def sizes(backbone: SlimmableResNet, *, image_size: int) -> dict[str, dict[str, Any]]:
    """Parameters and multiply-adds of every width, by `str(width)`."""
    return {
        str(width): {
            "params": count_parameters(backbone, width),
            "macs": count_macs(backbone, width, image_size=image_size),
        }
        for width in backbone.widths
    }
