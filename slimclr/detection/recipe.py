"""The recipe as an mmengine configuration: mmdet's own Mask R-CNN with our backbone, schedule and sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmengine.config import Config

from slimclr.detection.annotations import MIN_SIDE
from slimclr.detection.loop import LOG_INTERVAL
from slimclr.detection.optimisation import OPTIMISATION, optimisation
from slimclr.errors import UserError

_MODELS = "configs/_base_/models"
# ImageNet's mean and standard deviation times 255, as in pre-training; images arrive as BGR.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
# Settings of the training images among those of a recipe.
_IMAGES = ("image_scale", "short_sides", "flip", "workers")
# And those that evaluation shares.
_EVALUATED = ("coco", "classes", "image_scale", "workers")


def build_config(
    *,
    weights: Path,
    stage_channels: Sequence[int],
    coco: Path,
    classes: Sequence[str],
    checkpoints: Path,
    epochs: int,
    batch: int,
    seed: int,
    widths: Sequence[float] | None = None,
    masks: bool = True,
    checkpoint_minutes: float = 15.0,
    processes: int = 1,
    **settings: Any,
) -> Config:
    """Build what mmengine's `Runner.from_cfg` takes.

    Args:
        weights: The pre-trained backbone.
        stage_channels: Channels of its four maps at width 1.0.
        coco: Folder with `annotations/`, `train2017/` and `val2017/`.
        classes: Names of the categories in the order of the annotation file.
        checkpoints: Work folder for checkpoints and logs.
        epochs: Epochs.
        batch: Images per step, all processes together.
        seed: Seed of the order of images, of initial heads and of augmentation.
        widths: Widths that are trained and evaluated; None: all.
        masks: Mask R-CNN; False: Faster R-CNN.
        checkpoint_minutes: Minutes between checkpoints within an epoch.
        processes: Processes of the job.
        settings: Arguments of `train_dataloader`, of `optimisation` and of `model_config`.

    Raises:
        UserError: The processes cannot share `batch` equally.
    """
    if batch % processes:
        uneven = f"batch {batch} is not divisible by {processes} processes"
        raise UserError(f"transfer: {uneven}; change the recipe's batch or the GPUs")
    moves = {key: settings.pop(key) for key in OPTIMISATION if key in settings}
    data = {key: settings.pop(key) for key in _IMAGES if key in settings} | {"coco": coco, "classes": classes}
    model = model_config(weights=weights, stage_channels=stage_channels, classes=len(classes), masks=masks, **settings)
    model["backbone"]["trained"] = None if widths is None else list(widths)
    return Config(
        {
            "default_scope": "mmdet",
            "work_dir": str(checkpoints),
            "model": model,
            "train_cfg": {"type": "ExactLoop", "max_epochs": epochs, "checkpoint_minutes": checkpoint_minutes},
            "train_dataloader": train_dataloader(**data, masks=masks, batch=batch // processes, seed=seed),
            "eval_dataloader": eval_dataloader(**{key: data[key] for key in _EVALUATED}),
            **optimisation(epochs=epochs, batch=batch, **moves),
            **_runtime(processes=processes),
            "randomness": {"seed": seed},
        }
    )


def _resize(image_scale: tuple[int, int]) -> dict[str, Any]:
    return {"type": "Resize", "scale": tuple(image_scale), "keep_ratio": True}


def _dataloader(split: str, coco: Path, classes: Sequence[str], workers: int, **dataset: Any) -> dict[str, Any]:
    """What both loaders have in common; `dataset` are the data set's other settings, its type among them."""
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "dataset": {
            "data_root": str(coco),
            "metainfo": {"classes": tuple(classes)},
            "ann_file": f"annotations/instances_{split}2017.json",
            "data_prefix": {"img": f"{split}2017/"},
            **dataset,
        },
    }


def train_dataloader(
    *,
    coco: Path,
    classes: Sequence[str],
    image_scale: tuple[int, int],
    workers: int,
    flip: float,
    batch: int,
    seed: int,
    short_sides: tuple[int, int] | None = None,
    masks: bool = True,
) -> dict[str, Any]:
    """Training images of mmdet's pipeline, in an order and with random numbers by the seed.

    Args:
        coco: Folder with `annotations/` and `train2017/`.
        classes: Names of the categories.
        image_scale: Longest and shortest side that an image is resized to fit, in pixels.
        workers: Loader processes of each process.
        flip: Probability of a horizontal flip.
        batch: Images of a process.
        seed: See above.
        short_sides: For each image the shortest side to fit is drawn from these two on, up to the second; None:
            `image_scale` has it.
        masks: Masks are learned, too.
    """
    resize = _resize(image_scale)
    if short_sides is not None:
        scales = [(image_scale[0], side) for side in short_sides]
        resize = {"type": "RandomResize", "scale": scales, "keep_ratio": True}
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks},
        resize,
        {"type": "RandomFlip", "prob": flip},
        {"type": "PackDetInputs"},
    ]
    filters = {"filter_empty_gt": True, "min_size": MIN_SIDE}
    return {
        **_dataloader(
            "train", coco, classes, workers, type="SeededCoco", seed=seed, filter_cfg=filters, pipeline=pipeline
        ),
        "batch_size": batch,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "batch_sampler": {"type": "ResumableBatches"},
    }


def eval_dataloader(
    *, coco: Path, classes: Sequence[str], image_scale: tuple[int, int], workers: int
) -> dict[str, Any]:
    """The validation photos, one after the other; arguments as in `build_config`."""
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [{"type": "LoadImageFromFile"}, _resize(image_scale), {"type": "PackDetInputs", "meta_keys": keys}]
    return {
        **_dataloader("val", coco, classes, workers, type="CocoDataset", test_mode=True, pipeline=pipeline),
        "batch_size": 1,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }


def _runtime(*, processes: int) -> dict[str, Any]:
    """Hooks, logs and how processes work together."""
    cuda = torch.cuda.is_available()
    return {
        "default_hooks": {
            # For vis_data/scalars.json; what a user reads is `slimclr.progress`.
            "logger": {"type": "LoggerHook", "interval": LOG_INTERVAL},
            # `slimclr.detection.loop` writes them.
            "checkpoint": None,
        },
        "custom_hooks": [{"type": "CheckInvalidLossHook", "interval": LOG_INTERVAL}],
        "visualizer": {"type": "mmengine.Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}},
        "log_level": "WARNING",
        "launcher": "pytorch" if processes > 1 else "none",
        "model_wrapper_cfg": {
            "type": "SlimmableDataParallel",
            "device_ids": [torch.cuda.current_device()] if cuda else None,
            "broadcast_buffers": False,
        },
        # torch synchronises batch norms only on GPUs.
        "sync_bn": "torch" if cuda else None,
    }


def model_config(
    *,
    weights: Path,
    stage_channels: Sequence[int],
    classes: int,
    masks: bool = True,
    fpn_channels: int = 256,
    fc_channels: int = 1024,
    mask_convs: int = 4,
    anchor_scale: int = 8,
    proposals: int = 1000,
    roi_sampling: int = 0,
    rpn_samples: int = 256,
    roi_samples: int = 512,
    detections: int = 100,
) -> dict[str, Any]:
    """The detector: the installed mmdet's with our backbone; the sizes default to mmdet's.

    Args:
        weights: The pre-trained backbone.
        stage_channels: Channels of its four maps at width 1.0.
        classes: Number of categories.
        masks: `mask-rcnn_r50_fpn`; False: `faster-rcnn_r50_fpn`.
        fpn_channels: Channels of FPN, RPN and the mask head.
        fc_channels: Width of the box head's two layers.
        mask_convs: Convolutions of the mask head.
        anchor_scale: Side of a square anchor in units of its level's stride (4 to 64 pixels).
        proposals: Proposals of an image that reach the heads.
        roi_sampling: Points a side and bin that RoIAlign averages; 0 for as many as the region has pixels.
        rpn_samples: Anchors of an image that RPN's loss looks at.
        roi_samples: Proposals of an image that the heads' losses look at.
        detections: Most detections of an image.

    Raises:
        UserError: The installed mmdet has no such base configuration.
    """
    model = base_model("mask" if masks else "faster")
    model["type"] = "SlimmableMaskRCNN"
    model["data_preprocessor"] |= {"mean": MEAN, "std": STD, "bgr_to_rgb": True}
    model["backbone"] = {"type": "SlimmableBackbone", "weights": str(weights)}
    model["neck"] |= {"in_channels": list(stage_channels), "out_channels": fpn_channels}
    model["neck"]["conv_cfg"] = {"type": "FirstChannelsConv2d"}
    model["rpn_head"] |= {"in_channels": fpn_channels, "feat_channels": fpn_channels}
    model["rpn_head"]["anchor_generator"]["scales"] = [anchor_scale]
    roi = model["roi_head"]
    for extractor in (roi["bbox_roi_extractor"], roi.get("mask_roi_extractor")):
        if extractor is not None:
            extractor["out_channels"] = fpn_channels
            extractor["roi_layer"]["sampling_ratio"] = roi_sampling
    roi["bbox_head"] |= {"in_channels": fpn_channels, "fc_out_channels": fc_channels, "num_classes": classes}
    if masks:
        sizes = {"in_channels": fpn_channels, "conv_out_channels": fpn_channels, "num_convs": mask_convs}
        roi["mask_head"] |= {**sizes, "num_classes": classes}
    train, test = model["train_cfg"], model["test_cfg"]
    train["rpn"]["sampler"]["num"] = rpn_samples
    train["rcnn"]["sampler"]["num"] = roi_samples
    train["rpn_proposal"] |= {"nms_pre": 2 * proposals, "max_per_img": proposals}
    test["rpn"] |= {"nms_pre": proposals, "max_per_img": proposals}
    test["rcnn"]["max_per_img"] = detections
    return model


def base_model(kind: str = "mask") -> dict[str, Any]:
    """The installed mmdet's own Mask R-CNN, or Faster R-CNN (`faster`), with ResNet-50 and FPN.

    Raises:
        UserError: The installed mmdet has no such base configuration.
    """
    path = Path(mmdet.__file__).parent / ".mim" / _MODELS / f"{kind}-rcnn_r50_fpn.py"
    if not path.is_file():
        raise UserError(f"{path}: missing from the installed mmdet; set up the detection environment again")
    return Config.fromfile(path).model.to_dict()
