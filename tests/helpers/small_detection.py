"""A Mask R-CNN and a schedule of seconds on the CPU, on the miniature's COCO."""

SIZES = {
    "fpn_channels": 16,
    "fc_channels": 32,
    "mask_convs": 1,
    "anchor_scale": 4,
    "proposals": 20,
    "rpn_samples": 16,
    "roi_samples": 16,
    "detections": 10,
}
# A checkpoint after every step.
SHORT = SIZES | {
    "epochs": 6,
    "milestones": [4],
    "batch": 2,
    "lr": 0.01,
    "warmup_iterations": 5,
    "image_scale": [64, 64],
    "workers": 1,
    "checkpoint_minutes": 1e-5,
}
