"""A run that trains in a second."""

from functools import partial

import torch

from slimclr.data.loading.loaders import training_loader
from slimclr.engine.distributed import Process
from slimclr.engine.loop import Trainer
from slimclr.losses import kl_distillation, loss_weights
from slimclr.methods import MoCoV2, MoCoV3, SimCLR, SubNetworkLoss
from slimclr.nn import SlimmableResNet

WIDTHS = (1.0, 0.5)
ALONE = Process(0, 1, torch.device("cpu"))
METHODS = {
    "mocov2": partial(MoCoV2, dim=16, queue=32, momentum=0.9),
    "mocov3": partial(MoCoV3, dim=16, hidden=32, epochs=3),
    "simclr": partial(SimCLR, dim=16),
}


def trainer(
    images,
    folder,
    *,
    method="mocov2",
    epochs=3,
    lr=0.05,
    slow_start_epoch=1,
    workers=0,
    schedule=None,
    accumulation=1,
    backend="torchvision",
    log_every=1,
    process=ALONE,
):
    torch.manual_seed(0)
    combine = SubNetworkLoss(
        loss_weights("sub_sum_to_full", WIDTHS),
        partial(kl_distillation, student_temperature=5.0, teacher_temperature=5.0),
    )
    built = METHODS[method](SlimmableResNet(14, 8, WIDTHS), slow_start_epoch=slow_start_epoch, combine=combine)
    loader = training_loader(
        images,
        method,
        image_size=32,
        total_batch=16,
        batch=16 // accumulation // process.world_size,
        seed=0,
        workers=workers,
        rank=process.rank,
        world_size=process.world_size,
        backend=backend,
    )
    return Trainer(
        method=built,
        optimizer=torch.optim.SGD(built.trainable().parameters(), lr=lr, momentum=0.9, weight_decay=1e-4),
        schedule=schedule or (lambda step: lr),
        loader=loader,
        epochs=epochs,
        process=process,
        folder=folder,
        accumulation=accumulation,
        log_every=log_every,
    )
