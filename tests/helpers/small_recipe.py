"""A pre-training of seconds on the CPU, without its method."""

RECIPE = {
    "backbone": {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]},
    "epochs": 2,
    "slow_start_epoch": 1,
    "batch": 32,
    "bn_batch": 16,
    "optimizer": {"lr": 0.05},
    "distillation": {},
    "loss_weights": "sub_sum_to_full",
    "image_size": 32,
    "workers": 0,
    "log_every": 1,
}
