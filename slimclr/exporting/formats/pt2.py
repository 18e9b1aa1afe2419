"""torch.export: a graph that torch alone loads and runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ABOUT = "about.json"


def write_pt2(network: nn.Module, path: Path, *, image_size: int, metadata: Mapping[str, Any]) -> None:
    """Write a network with a dynamic batch.

    Args:
        network: In eval mode.
        path: A `.pt2` file.
        image_size: Side of the images in pixels.
        metadata: JSON values, kept in the file as `about.json` (`torch.export.load(path, extra_files=...)`).
    """
    example = torch.zeros(2, 3, image_size, image_size)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={ABOUT: json.dumps(dict(metadata), ensure_ascii=False)})


def run_pt2(path: Path, images: Tensor) -> Tensor:
    """Outputs for images (n, 3, h, w)."""
    with torch.no_grad():
        return torch.export.load(path).module()(images)
