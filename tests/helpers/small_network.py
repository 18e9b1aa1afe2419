"""A run's results with a slimmable network whose batch norms have seen something: weights, probe, metrics."""

import json

import torch

from slimclr.files import sha256
from slimclr.nn import build_backbone, classifier
from slimclr.nn.weights import save_weights
from slimclr.probe.classifier import Trained, save_classifier

WIDTHS = (1.0, 0.75, 0.5, 0.25)
CLASSES = ("n01440764", "n02102040", "n02979186")


def network(depth=14, base_width=16, widths=WIDTHS, *, overlap=True, size=64, seed=0):
    """A network that is not at its initial values."""
    torch.manual_seed(seed)
    backbone = build_backbone(depth, base_width, widths, zero_init_residual=False, overlap=overlap)
    for width in backbone.widths:
        backbone(torch.randn(4, 3, size, size), width)
    return backbone.eval()


def write_run(results, *, run="slim", depth=14, base_width=16, size=64, own=False, probe=True, metrics=True):
    """results/pretrain/<run>/ and results/probe/<run>/; gives the network and the probe's layers."""
    backbone = network(depth, base_width, size=size)
    folder = results / "pretrain" / run
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    header = {"run": run, "method": "supervised" if own else "simclr", "recipe_sha256": "e" * 64, "image_size": size}
    if own:
        head = classifier(backbone.out_features, len(CLASSES), backbone.widths, switchable=False)
        torch.nn.init.normal_(head.bias)
        tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        header["classes"] = CLASSES
    save_weights(folder / "weights.safetensors", tensors, header | backbone.shape)
    digest = sha256(folder / "weights.safetensors")
    about = {"schema": 1, "run": run, "weights_sha256": digest, "arch": backbone.arch}
    told = {"stage": "pretrain", "epochs": 2, "image_size": size, "comparable_because": ["it is a <test>"]}
    (folder / "metrics.json").write_text(json.dumps(about | told))
    probes = classifier(backbone.out_features, len(CLASSES), backbone.widths, switchable=True)
    for layer in probes.linears.values():
        torch.nn.init.normal_(layer.weight)
    (results / "probe" / run).mkdir(parents=True)
    if probe:
        trained = Trained(CLASSES, digest, backbone.arch, size + 8, size, "normal", 32)
        save_classifier(results / "probe" / run / "classifier.safetensors", probes, widths=WIDTHS, trained=trained)
    if metrics:
        accuracies = {str(width): {"top1": 80.0 - 10 / width, "top5": 99.0} for width in WIDTHS}
        told = {"stage": "probe", "images": 400, "widths": accuracies, "data_sha256": {"val_images": "d" * 64}}
        (results / "probe" / run / "metrics.json").write_text(json.dumps(about | told))
    return backbone, head if own else probes
