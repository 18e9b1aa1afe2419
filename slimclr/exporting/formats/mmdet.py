"""mmdet: a backbone's checkpoint for `init_cfg`, and a config of Mask R-CNN on a narrow one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimclr.errors import UserError

CHECKPOINT, CONFIG = "backbone.pth", "mask_rcnn.py"
DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

_TEXT = '''"""Mask R-CNN on {name}. `checkpoint` is relative to where training starts."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        depth={depth},
        base_channels={channels},
        stem_channels={channels},
        init_cfg=dict(type="Pretrained", checkpoint="{checkpoint}"),
    ),
    neck=dict(in_channels={maps}),
)
'''


def in_python(name: str) -> str:
    """A name as it may stand in a Python file's text: a run's name may come from somebody else's weights."""
    return re.sub(r"[^\w .,+()-]", "?", name)


def write_mmdet(state: Mapping[str, Tensor], network: Mapping[str, Any], folder: Path, *, name: str) -> None:
    """Write the checkpoint and the config.

    Args:
        state: The plain network's tensors; its classifier is left out.
        network: The arguments of `plain.ResNet`.
        folder: Where to write.
        name: What the config calls the network.

    Raises:
        UserError: mmdet's ResNet cannot be this network.
    """
    depth = DEPTHS.get(tuple(network["layers"]))
    if depth is None or network["small_images"] or network["folded"]:
        raise UserError(
            "--format mmdet: mmdet's ResNet has depths 50, 101, 152 and batch norms, and this network is none of them; "
            "leave mmdet out of --format"
        )
    folder.mkdir(parents=True, exist_ok=True)
    backbone = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    torch.save({"state_dict": backbone, "meta": {}}, folder / CHECKPOINT)
    channels = int(network["channels"])
    text = _TEXT.format(
        name=in_python(name),
        depth=depth,
        channels=channels,
        checkpoint=CHECKPOINT,
        maps=[4 * channels * 2**stage for stage in range(4)],
    )
    (folder / CONFIG).write_text(text, encoding="utf-8")


def read_mmdet(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors."""
    state: dict[str, Tensor] = torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]
    return state
