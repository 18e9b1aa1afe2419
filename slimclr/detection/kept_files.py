"""The files of a trained detector, read without mmdet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from slimclr.errors import UserError
from slimclr.nn.weights import read_tensors

TENSORS, CONFIG = "detector.safetensors", "config.json"
HEADER = "slimclr_detector"


class Kept(NamedTuple):
    """A trained detector's content.

    Attributes:
        folder: Where its files lie.
        tensors: Its state dict.
        header: What the tensors' file says of itself: the run's name, SHA-256 of what was read.
        config: mmengine's configuration.
    """

    folder: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.header.get("name", "")).removeprefix("transfer ") or self.folder.resolve().name

    @property
    def classes(self) -> list[str]:
        """Names of its categories, in the order of its outputs."""
        return list(self.config["eval_dataloader"]["dataset"]["metainfo"]["classes"])


def with_tuples(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A pipeline out of JSON, which has no tuples, with the scales as tuples that mmcv wants."""
    return [
        {key: tuple(value) if key == "scale" else value for key, value in transform.items()} for transform in pipeline
    ]


def is_detector(path: Path) -> bool:
    """Whether this is the file of a detector's tensors, or a folder with one."""
    return path.name == TENSORS or (path / TENSORS).is_file()


def read_kept(path: Path) -> Kept:
    """Read a detector.

    Args:
        path: `detector.safetensors`, beside its `config.json`, or their folder.

    Raises:
        UserError: A file is missing or of another kind.
    """
    folder = path.parent if path.name == TENSORS else path
    for name in (TENSORS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; run the transfer stage of this run first")
    tensors, metadata = read_tensors(folder / TENSORS)
    if HEADER not in metadata:
        raise UserError(f"{folder / TENSORS}: not a detector of this pipeline; run the transfer stage again")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        kept = Kept(folder, tensors, json.loads(metadata[HEADER]), config)
        _ = kept.classes, config["model"]["type"], config["model"]["backbone"]["shape"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG}: not a detector's configuration ({error!r}); run it again") from None
    return kept
