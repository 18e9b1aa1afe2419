"""Mask R-CNN on COCO."""

from typing import Literal

from pydantic import Field

from slimclr.config.base import Count, CountFrom0, Model, Momentum, Positive, Share, Workers


class Detection(Model):
    """Mask R-CNN on COCO, the same recipe for every run that transfers; mmdet's 2x is epochs 24, milestones 16, 22."""

    epochs: Count = Field(12, description="Epochs.")
    milestones: tuple[Count, ...] = Field((8, 11), description="Epochs after which the rate is divided by 10.")
    batch: Count = Field(64, description="Total batch over all GPUs.")
    lr: Positive = Field(0.08, description="Learning rate of SGD, for the total batch.")
    lr_batch: Count | None = Field(
        None,
        description="Total batch that `lr` and `warmup_iterations` are for, if `batch` is another one: the rate is in "
        "proportion, warm-up lasts as many images; null: they are for `batch`.",
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="fp16 uses a gradient scaler.")
    widths: tuple[Positive, ...] | None = Field(
        None, min_length=1, description="Widths that are trained and evaluated, one alone for instance; null: all."
    )
    masks: bool = Field(True, description="Mask R-CNN; false: Faster R-CNN, boxes alone.")
    momentum: Momentum = Field(0.9, description="Momentum.")
    weight_decay: Share = Field(1e-4, description="Weight decay, on every parameter.")
    grad_clip: Positive = Field(35.0, description="Greatest norm of the gradient summed over widths.")
    warmup_iterations: CountFrom0 = Field(500, description="Steps of linear warm-up.")
    warmup_ratio: Share = Field(0.001, description="Share of the learning rate at the first step.")
    image_scale: tuple[Count, Count] = Field((1333, 800), description="Longest and shortest side to fit, in pixels.")
    short_sides: tuple[Count, Count] | None = Field(
        None,
        description="Multi-scale training: the shorter side to fit is drawn for every image between these two; null: "
        "that of `image_scale`.",
    )
    flip: Share = Field(0.5, description="Probability of a horizontal flip.")
    workers: Workers = Field(4, description="Loader processes per GPU.")
    checkpoint_minutes: Positive = Field(
        15, description="Minutes between checkpoints within an epoch; a killed run loses no more than that."
    )
    fpn_channels: Count = Field(256, description="Channels of FPN, RPN and mask head.")
    fc_channels: Count = Field(1024, description="Width of the box head.")
    mask_convs: Count = Field(4, description="Convolutions of the mask head.")
    anchor_scale: Count = Field(8, description="Side of a square anchor in strides of its level.")
    proposals: Count = Field(1000, description="Proposals of an image that reach the heads.")
    roi_sampling: CountFrom0 = Field(
        0, description="Points a side and bin that RoIAlign averages; 0: as many as the region has pixels."
    )
    rpn_samples: Count = Field(256, description="Anchors of an image in RPN's loss.")
    roi_samples: Count = Field(512, description="Proposals of an image in the heads' losses.")
    detections: Count = Field(100, description="Most detections of an image.")
