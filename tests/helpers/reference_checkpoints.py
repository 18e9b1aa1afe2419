"""Checkpoints in the reference implementation's naming, small ones, as its training script writes them."""

import argparse
from collections import OrderedDict

import numpy as np
import torch

from slimclr.methods.base import Encoder
from slimclr.nn import MLP, MoCoV3Projector, SimCLRHead, build_backbone, classifier
from tests.helpers.golden_inputs import backbone_names, fill, head_names

DEPTH, BASE, WIDTHS = 14, 16, (1.0, 0.75, 0.5, 0.25)
HEADS = {
    "mocov2_slim": lambda size, out, widths: MLP(size, out, widths),
    "mocov2_switch": lambda size, out, widths: MLP(size, out, widths, switchable=True),
    "mocov3_slim": lambda size, out, widths: MoCoV3Projector(size, 2 * size, out, widths),
    "simclr_slim": lambda size, out, widths: SimCLRHead(size, size, out, widths),
    "supervised": lambda size, out, widths: classifier(size, out, widths, switchable=False),
    "supervised_switch": lambda size, out, widths: classifier(size, out, widths, switchable=True),
}


def made(head, prefix, *, depth=DEPTH, base=BASE, widths=WIDTHS, out=12):
    """An encoder with golden values, and its state dict under the reference's names."""
    backbone = build_backbone(depth, base, widths)
    encoder = Encoder(backbone, HEADS[head](backbone.out_features, out, widths), normalize=False).eval()
    names = backbone_names(depth, widths) + head_names(head, widths)
    ours = fill(encoder, names, "module.encoder_q.", depth=depth, widths=widths, head=head)
    tensors = encoder.state_dict()
    return encoder, {f"module.{prefix}{theirs}": tensors[own] for theirs, own in ours.items()}


def saved(folder, state, *, name="net.pth.tar", zipped=True):
    """A checkpoint as a training script writes it, with options, the best accuracy and the optimiser."""
    weight = torch.zeros(3)
    content = {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": OrderedDict(state),
        "best_acc1": np.float64(67.5),
        "steps": np.int64(5),
        "args": argparse.Namespace(lr=0.03, gpu=None, widths=[1.0, 0.5]),
        "optimizer": torch.optim.SGD([weight], lr=0.1, momentum=0.9).state_dict(),
    }
    torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    return folder / name
