"""The recipe as an mmengine configuration: mmdet's own Mask R-CNN with our backbone, schedule and sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmengine.config import Config

from slimclr.detection.annotations import MIN_SIDE
from slimclr.errors import UserError

BASE_MODEL = "configs/_base_/models/mask-rcnn_r50_fpn.py"
# ImageNet's mean and standard deviation times 255, as in pre-training; images arrive as BGR.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


# Settings of the optimiser and of its schedule among those of a recipe.
OPTIMISATION = ("milestones", "lr", "momentum", "weight_decay", "grad_clip", "warmup_iterations", "warmup_ratio")


def build_config(
    *,
    weights: Path,
    stage_channels: Sequence[int],
    coco: Path,
    classes: Sequence[str],
    checkpoints: Path,
    epochs: int,
    batch: int,
    image_scale: tuple[int, int],
    flip: float,
    seed: int,
    workers: int,
    checkpoint_minutes: float = 15.0,
    processes: int = 1,
    log_interval: int = 50,
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
        image_scale: Longest and shortest side that an image is resized to fit, in pixels.
        flip: Probability of a horizontal flip in training.
        seed: Seed of the order of images, of initial heads and of augmentation.
        workers: Loader processes of each process.
        checkpoint_minutes: Minutes between checkpoints within an epoch.
        processes: Processes of the job.
        log_interval: Steps between two lines of the log.
        settings: Arguments of `optimisation` and of `model_config`.

    Raises:
        UserError: The processes cannot share `batch` equally.
    """
    if batch % processes:
        uneven = f"batch {batch} is not divisible by {processes} processes"
        raise UserError(f"transfer: {uneven}; change the recipe's batch or the GPUs")
    moves = {key: settings.pop(key) for key in OPTIMISATION}
    data: dict[str, Any] = {"coco": coco, "classes": classes, "image_scale": image_scale, "workers": workers}
    return Config(
        {
            "default_scope": "mmdet",
            "work_dir": str(checkpoints),
            "model": model_config(weights=weights, stage_channels=stage_channels, classes=len(classes), **settings),
            "train_cfg": {"type": "ExactLoop", "max_epochs": epochs, "checkpoint_minutes": checkpoint_minutes},
            "train_dataloader": _train_dataloader(**data, flip=flip, batch=batch // processes, seed=seed),
            "eval_dataloader": eval_dataloader(**data),
            **optimisation(epochs=epochs, **moves),
            **_runtime(processes=processes, log_interval=log_interval),
            "randomness": {"seed": seed},
        }
    )


def optimisation(
    *,
    epochs: int,
    milestones: Sequence[int],
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_clip: float,
    warmup_iterations: int,
    warmup_ratio: float,
) -> dict[str, Any]:
    """The optimiser and its schedule.

    Args:
        epochs: Epochs.
        milestones: Epochs after which the learning rate is divided by 10.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay, on all parameters.
        grad_clip: Greatest norm of the summed gradient.
        warmup_iterations: Steps of linear warm-up; 0 for none.
        warmup_ratio: Share of the learning rate at the first step.
    """
    steps = {"type": "MultiStepLR", "begin": 0, "end": epochs, "by_epoch": True, "milestones": list(milestones)}
    schedule: list[dict[str, Any]] = [steps | {"gamma": 0.1}]
    if warmup_iterations:
        warmup = {"type": "LinearLR", "start_factor": warmup_ratio, "by_epoch": False}
        schedule.insert(0, warmup | {"begin": 0, "end": warmup_iterations})
    return {
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": lr, "momentum": momentum, "weight_decay": weight_decay},
            "clip_grad": {"max_norm": grad_clip, "norm_type": 2},
        },
        "param_scheduler": schedule,
    }


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


def _train_dataloader(
    *,
    coco: Path,
    classes: Sequence[str],
    image_scale: tuple[int, int],
    workers: int,
    flip: float,
    batch: int,
    seed: int,
) -> dict[str, Any]:
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        _resize(image_scale),
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


def _runtime(*, processes: int, log_interval: int) -> dict[str, Any]:
    """Hooks, logs and how processes work together."""
    cuda = torch.cuda.is_available()
    return {
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": log_interval},
            # `slimclr.detection.loop` writes them.
            "checkpoint": None,
        },
        "custom_hooks": [{"type": "CheckInvalidLossHook", "interval": log_interval}],
        "visualizer": {"type": "mmengine.Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}},
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
    """The detector: the installed mmdet's `mask-rcnn_r50_fpn` with our backbone; the sizes default to mmdet's.

    Args:
        weights: The pre-trained backbone.
        stage_channels: Channels of its four maps at width 1.0.
        classes: Number of categories.
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
    model = base_model()
    model["type"] = "SlimmableMaskRCNN"
    model["data_preprocessor"] |= {"mean": MEAN, "std": STD, "bgr_to_rgb": True}
    model["backbone"] = {"type": "SlimmableBackbone", "weights": str(weights)}
    model["neck"] |= {"in_channels": list(stage_channels), "out_channels": fpn_channels}
    model["neck"]["conv_cfg"] = {"type": "FirstChannelsConv2d"}
    model["rpn_head"] |= {"in_channels": fpn_channels, "feat_channels": fpn_channels}
    model["rpn_head"]["anchor_generator"]["scales"] = [anchor_scale]
    roi = model["roi_head"]
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        roi[extractor]["out_channels"] = fpn_channels
        roi[extractor]["roi_layer"]["sampling_ratio"] = roi_sampling
    roi["bbox_head"] |= {"in_channels": fpn_channels, "fc_out_channels": fc_channels, "num_classes": classes}
    roi["mask_head"] |= {
        "in_channels": fpn_channels,
        "conv_out_channels": fpn_channels,
        "num_convs": mask_convs,
        "num_classes": classes,
    }
    train, test = model["train_cfg"], model["test_cfg"]
    train["rpn"]["sampler"]["num"] = rpn_samples
    train["rcnn"]["sampler"]["num"] = roi_samples
    train["rpn_proposal"] |= {"nms_pre": 2 * proposals, "max_per_img": proposals}
    test["rpn"] |= {"nms_pre": proposals, "max_per_img": proposals}
    test["rcnn"]["max_per_img"] = detections
    return model


def base_model() -> dict[str, Any]:
    """The installed mmdet's own Mask R-CNN with ResNet-50 and FPN.

    Raises:
        UserError: The installed mmdet has no such base configuration.
    """
    path = Path(mmdet.__file__).parent / ".mim" / BASE_MODEL
    if not path.is_file():
        raise UserError(f"{path}: missing from the installed mmdet; set up the detection environment again")
    return Config.fromfile(path).model.to_dict()
