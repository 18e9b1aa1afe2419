"""Take over the released detector."""

from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.config import Config

from slimclr.detection.kept import build_detector, save_detector
from slimclr.detection.recipe import eval_dataloader, model_config
from slimclr.detection.released import Sizes, sizes_of, take
from slimclr.digests import compare, digests
from slimclr.errors import UserError
from slimclr.nn.foreign import load_state

# The recipe's, and what the facts say of the mmdet that trained it.
_IMAGE_SCALE, _PROPOSALS, _SAMPLING = (1333, 800), 2000, 2
_CODER = {"type": "LegacyDeltaXYWHBBoxCoder"}


def import_detector(file: Path, *, out: Path, run: str | None = None, hash_check: bool = True) -> None:
    """Write `detector.safetensors` and `config.json`, which `slimclr evaluate --coco` and `slimclr export` take.

    The configuration is mmdet 3's Mask R-CNN with the boxes, anchors and RoIAlign of mmdet 1 (mmdet's
    configs/legacy_1.x), as a detector of that time has learnt them.

    Args:
        file: The released `.pth`, of an mmdet 1 and with the reference's slimmable backbone.
        out: The folder, for instance results/transfer/<run>.
        run: The run's name; None: the folder's.
        hash_check: Refuse a file whose content does not fit the hash in its name.

    Raises:
        UserError: The file is missing, damaged, holds more than data, or has tensors that are missing, unknown, of
            another shape or not finite; or `out` has a detector already. Nothing is written then.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; download it first, or correct the path")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there already; name another --out, or remove it")
    found = digests(file)
    fits, words = compare(file.name, found)
    if not fits and hash_check:
        raise UserError(f"{file}: {words}; download it again, or pass --no-hash-check to take it as it is")
    print(f"hash      {words if fits else f'MISMATCH, let pass by --no-hash-check: {words}'}")
    state = {name.removeprefix("module."): tensor for name, tensor in load_state(file).items()}
    try:
        sizes = sizes_of(state)
        model = legacy_model(sizes)
        expected = build_detector(model)
        expected.load_state_dict(take(state, expected.state_dict(), sizes))
    except UserError:
        raise
    except ValueError as error:
        lines = "\n".join(f"{file}: {line}" for line in str(error).splitlines())
        raise UserError(f"{lines}; give the released detector, an mmdet 1 Mask R-CNN with FPN") from None
    classes = CocoDataset.METAINFO["classes"]
    loader = eval_dataloader(coco=Path("coco"), classes=classes, image_scale=_IMAGE_SCALE, workers=4)
    config = Config({"default_scope": "mmdet", "model": model, "eval_dataloader": loader})
    source = {"name": run or out.resolve().name, "source": file.name, "source_sha256": found["SHA-256"], "inputs": {}}
    save_detector(out, expected, config, shape=sizes.shape, header=source)
    print(f"network   {expected.backbone.network.arch}, widths {', '.join(map(str, expected.widths))}")
    print(f"tensors   {len(state)} taken")
    print(f"written   {out}; slimclr evaluate --weights {out} --coco COCO")


def legacy_model(sizes: Sizes) -> dict[str, Any]:
    """The detector's configuration.

    Raises:
        ValueError: It has not COCO's categories.
    """
    categories = len(CocoDataset.METAINFO["classes"])
    if sizes.classes != categories:
        raise ValueError(f"bbox_head.fc_cls has {sizes.classes} categories and the background; COCO has {categories}")
    model = model_config(
        weights=Path("none"),
        stage_channels=sizes.stage_channels,
        classes=sizes.classes,
        fpn_channels=sizes.fpn_channels,
        fc_channels=sizes.fc_channels,
        mask_convs=sizes.mask_convs,
        proposals=_PROPOSALS,
        roi_sampling=_SAMPLING,
    )
    model["backbone"] = {"type": "SlimmableBackbone", "shape": sizes.shape}
    model["rpn_head"]["anchor_generator"] |= {"type": "LegacyAnchorGenerator", "center_offset": 0.5}
    model["rpn_head"]["bbox_coder"] |= _CODER
    roi = model["roi_head"]
    roi["bbox_head"]["bbox_coder"] |= _CODER
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        roi[extractor]["roi_layer"]["aligned"] = False
    return model
