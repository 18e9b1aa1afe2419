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


def build_config(
    *,
    weights: Path,
    stage_channels: Sequence[int],
    coco: Path,
    classes: Sequence[str],
    checkpoints: Path,
    resume_from: Path | None,
    epochs: int,
    milestones: Sequence[int],
    batch: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_clip: float,
    warmup_iterations: int,
    warmup_ratio: float,
    image_scale: tuple[int, int],
    flip: float,
    seed: int,
    workers: int,
    processes: int = 1,
    log_interval: int = 50,
    **sizes: int,
) -> Config:
    """Build what mmengine's `Runner.from_cfg` takes.

    Args:
        weights: The pre-trained backbone.
        stage_channels: Channels of its four maps at width 1.0.
        coco: Folder with `annotations/`, `train2017/` and `val2017/`.
        classes: Names of the categories in the order of the annotation file.
        checkpoints: Work folder for checkpoints and logs.
        resume_from: Checkpoint to continue from.
        epochs: Epochs.
        milestones: Epochs after which the learning rate is divided by 10.
        batch: Images per step, all processes together.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay, on all parameters.
        grad_clip: Greatest norm of the summed gradient.
        warmup_iterations: Steps of linear warm-up; 0 for none.
        warmup_ratio: Share of the learning rate at the first step.
        image_scale: Longest and shortest side that an image is resized to fit, in pixels.
        flip: Probability of a horizontal flip in training.
        seed: Seed of the order of images, of initial heads and of augmentation.
        workers: Loader processes of each process.
        processes: Processes of the job.
        log_interval: Steps between two log lines.
        sizes: See `model_config`.

    Raises:
        UserError: `batch` cannot be shared equally by the processes.
    """
    if batch % processes:
        raise UserError(
            f"transfer: batch {batch} is not divisible by {processes} processes; change the recipe's batch or the GPUs"
        )
    scale = {"type": "Resize", "scale": tuple(image_scale), "keep_ratio": True}
    annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    loader = {"num_workers": workers, "persistent_workers": workers > 0}
    dataset = {"type": "CocoDataset", "data_root": str(coco), "metainfo": {"classes": tuple(classes)}}
    schedule: list[dict[str, Any]] = [
        {
            "type": "MultiStepLR",
            "begin": 0,
            "end": epochs,
            "by_epoch": True,
            "milestones": list(milestones),
            "gamma": 0.1,
        }
    ]
    if warmup_iterations:
        schedule.insert(
            0,
            {"type": "LinearLR", "start_factor": warmup_ratio, "by_epoch": False, "begin": 0, "end": warmup_iterations},
        )
    cuda = torch.cuda.is_available()
    return Config(
        {
            "default_scope": "mmdet",
            "work_dir": str(checkpoints),
            "model": model_config(weights=weights, stage_channels=stage_channels, classes=len(classes), **sizes),
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": epochs},
            "train_dataloader": {
                **loader,
                "batch_size": batch // processes,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "batch_sampler": {"type": "AspectRatioBatchSampler"},
                "dataset": {
                    **dataset,
                    "ann_file": "annotations/instances_train2017.json",
                    "data_prefix": {"img": "train2017/"},
                    "filter_cfg": {"filter_empty_gt": True, "min_size": MIN_SIDE},
                    "pipeline": [
                        {"type": "LoadImageFromFile"},
                        annotations,
                        scale,
                        {"type": "RandomFlip", "prob": flip},
                        {"type": "PackDetInputs"},
                    ],
                },
            },
            # Read by `slimclr.detection.transfer`: it evaluates every width, once, after training.
            "eval_dataloader": {
                **loader,
                "batch_size": 1,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "dataset": {
                    **dataset,
                    "ann_file": "annotations/instances_val2017.json",
                    "data_prefix": {"img": "val2017/"},
                    "test_mode": True,
                    "pipeline": [{"type": "LoadImageFromFile"}, scale, {"type": "PackDetInputs", "meta_keys": keys}],
                },
            },
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "SGD", "lr": lr, "momentum": momentum, "weight_decay": weight_decay},
                "clip_grad": {"max_norm": grad_clip, "norm_type": 2},
            },
            "param_scheduler": schedule,
            "default_hooks": {
                "logger": {"type": "LoggerHook", "interval": log_interval},
                "checkpoint": {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 2},
            },
            "custom_hooks": [{"type": "CheckInvalidLossHook", "interval": log_interval}],
            "visualizer": {"type": "mmengine.Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
            "randomness": {"seed": seed},
            "env_cfg": {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}},
            "launcher": "pytorch" if processes > 1 else "none",
            "model_wrapper_cfg": {
                "type": "SlimmableDataParallel",
                "device_ids": [torch.cuda.current_device()] if cuda else None,
                "broadcast_buffers": False,
            },
            # torch synchronises batch norms only on GPUs.
            "sync_bn": "torch" if cuda else None,
            "load_from": None if resume_from is None else str(resume_from),
            "resume": resume_from is not None,
        }
    )


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
