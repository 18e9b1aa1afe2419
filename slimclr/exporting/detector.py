"""One width of a trained detector, as a checkpoint and a config that mmdet's own test script evaluates."""

import copy
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
from torch import Tensor

from slimclr.detection.kept_files import TENSORS, Kept, with_tuples
from slimclr.errors import UserError
from slimclr.exporting.extract import extract, network_arguments
from slimclr.exporting.formats.mmdet import DEPTHS, in_python
from slimclr.nn import SlimmableResNet, build_backbone

CHECKPOINT, CONFIG = "detector.pth", "detector.py"
_BACKBONE, _LATERAL = "backbone.network.", "neck.lateral_convs."

_TEXT = '''"""{name} at width {width}, for mmdet 3; nothing else is needed.

    python tools/test.py {config} {checkpoint} --cfg-options data_root=/path/to/coco/

`tools/test.py` is mmdet's own (in an installed mmdet: mmdet/.mim/tools/test.py).
"""

default_scope = "mmdet"
data_root = "data/coco/"

model = {model}

test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        metainfo=dict(classes={classes}),
        test_mode=True,
        pipeline={pipeline},
    ),
)
# Relative paths are below data_root for the photos alone, so the annotations are named twice.
test_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "annotations/instances_val2017.json",
    metric={metric},
)
test_cfg = dict(type="TestLoop")

default_hooks = dict(visualization=dict(type="DetVisualizationHook"))
visualizer = dict(
    type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer"
)
'''


def write_detector(kept: Kept, width: float, folder: Path) -> dict[str, Any]:
    """Write the checkpoint and the config of one width.

    The backbone is mmdet's own ResNet with this width's channels, the lateral convolutions of FPN lose the channels
    that this width fills with zeros; all else is as it was trained.

    Args:
        kept: The detector.
        width: One of its widths.
        folder: Where to write.

    Returns:
        The arguments of the backbone in mmdet's config.

    Raises:
        UserError: It was not trained at this width, or mmdet's ResNet cannot be its backbone.
    """
    backbone = _backbone(kept)
    if width not in backbone.widths:
        known = ", ".join(map(str, backbone.widths))
        raise UserError(f"width {width}: {kept.folder / TENSORS} was trained at {known}; name one of them")
    model = _model(kept, backbone, width)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": _state(kept, backbone, width), "meta": {}}, folder / CHECKPOINT)
    text = _TEXT.format(
        name=in_python(kept.name),
        width=width,
        config=CONFIG,
        checkpoint=CHECKPOINT,
        model=_python(model),
        classes=_python(tuple(kept.classes)),
        pipeline=_python(with_tuples(kept.config["eval_dataloader"]["dataset"]["pipeline"])),
        metric=["bbox", "segm"] if "mask_head" in model["roi_head"] else ["bbox"],
    )
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return dict(model["backbone"])


def _python(value: Any) -> str:
    return pformat(value, sort_dicts=False, width=110)


def _backbone(kept: Kept) -> SlimmableResNet:
    backbone = build_backbone(**kept.config["model"]["backbone"]["shape"])
    state = {
        name.removeprefix(_BACKBONE): tensor for name, tensor in kept.tensors.items() if name.startswith(_BACKBONE)
    }
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{kept.folder}: tensors and configuration do not fit each other ({reason})") from None
    return backbone.eval()


def _model(kept: Kept, backbone: SlimmableResNet, width: float) -> dict[str, Any]:
    """The configuration with mmdet's own classes."""
    arguments = network_arguments(backbone, width, classes=0)
    depth = DEPTHS.get(tuple(arguments["layers"]))
    if depth is None or arguments["small_images"]:
        raise UserError(
            f"{kept.folder}: mmdet's ResNet has depths {', '.join(map(str, DEPTHS.values()))}, and this backbone is "
            f"{backbone.arch}; only such a detector can be exported"
        )
    channels = int(arguments["channels"])
    model: dict[str, Any] = copy.deepcopy(kept.config["model"])
    model["type"] = model["type"].removeprefix("Slimmable")
    model["backbone"] = {
        "type": "ResNet",
        "depth": depth,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": -1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": False,
        "style": "pytorch",
    }
    if channels != 64:
        model["backbone"] |= {"base_channels": channels, "stem_channels": channels}
    model["neck"].pop("conv_cfg", None)
    model["neck"]["in_channels"] = [4 * channels * 2**stage for stage in range(4)]
    return model


def _state(kept: Kept, backbone: SlimmableResNet, width: float) -> Mapping[str, Tensor]:
    """Mmdet's tensors of one width."""
    plain = extract(backbone, width)
    state = {f"backbone.{name}": tensor for name, tensor in plain.state_dict().items()}
    channels = [round(full * width) for full in backbone.stage_channels]
    for name, tensor in kept.tensors.items():
        if name.startswith(_BACKBONE):
            continue
        if name.startswith(_LATERAL) and name.endswith("conv.weight"):
            level = int(name.removeprefix(_LATERAL).split(".")[0])
            tensor = tensor[:, : channels[level]].clone()
        state[name] = tensor
    return state
