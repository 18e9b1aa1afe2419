"""The linear probes of a recipe."""

from itertools import product

import torch

from slimclr.config import Probe
from slimclr.nn import SlimmableResNet
from slimclr.nn.inference import FrozenBackbone
from slimclr.nn.placement import place
from slimclr.probe import LinearProbe
from slimclr.probe.grid import Candidate, GridProbe, module_features


def probe_candidates(recipe: Probe) -> list[Candidate]:
    """The probes that a recipe trains side by side; of each layer the optimiser's own rate and decay first."""
    settings = recipe.optimizer
    assert settings is not None, "the config refuses a trained probe without an optimiser"
    grid = recipe.grid
    rates = dict.fromkeys([settings.lr, *(grid.lr if grid else ())])
    decays = dict.fromkeys([settings.weight_decay, *(grid.weight_decay if grid else ())])
    layers = ("switchable", "slimmable") if recipe.layer == "both" else (recipe.layer,)
    return [Candidate(*values) for values in product(layers, rates, decays)]


def build_probe(
    recipe: Probe, backbone: SlimmableResNet, *, classes: int, device: torch.device
) -> LinearProbe | GridProbe:
    """The probes of a recipe on a device, with the backbone that they are trained on."""
    if recipe.as_published:
        method = LinearProbe(backbone, classes)
        place(method, device)
        return method
    place(backbone.requires_grad_(False), device)
    if recipe.frozen is None:
        features = module_features(backbone)
    else:
        settings = recipe.frozen
        features = FrozenBackbone(backbone, device, precision=settings.precision, compiled=settings.compile)
    grid = GridProbe(features, backbone, classes, probe_candidates(recipe), soft_labels=recipe.soft_labels)
    place(grid, device)
    return grid
