"""The training method of a recipe around its backbone."""

from typing import Any

import torch

from slimclr.build.loss import build_combination
from slimclr.config import Pretrain
from slimclr.methods import METHODS, Method
from slimclr.nn import SlimmableResNet
from slimclr.nn.compiled import compile_widths
from slimclr.nn.placement import place


def build_method(recipe: Pretrain, backbone: SlimmableResNet, *, classes: int, seed: int = 0) -> Method:
    """The method of a recipe around its backbone.

    Args:
        recipe: What to train.
        backbone: Its network.
        classes: Number of classes, for supervised training.
        seed: Seed of the method's random numbers during training.
    """
    method = recipe.method
    parts: dict[str, Any] = method.model_dump(exclude={"name"})
    if method.name == "mocov2":
        parts["seed"] = seed
    if method.name == "mocov3":
        parts["epochs"] = recipe.epochs
    if method.name == "supervised":
        parts["classes"] = classes
    return METHODS[method.name](
        backbone,
        slow_start_epoch=recipe.slow_start_epoch,
        combine=build_combination(recipe, backbone.widths),
        **parts,
    )


def place_method(method: Method, backbone: SlimmableResNet, recipe: Pretrain, device: torch.device) -> None:
    """Move a method to its device, with the recipe's activation checkpointing and compilation."""
    place(method, device)
    backbone.checkpointing = recipe.activation_checkpointing
    if recipe.compile:
        for module in method.modules():
            if isinstance(module, SlimmableResNet):
                compile_widths(module)
