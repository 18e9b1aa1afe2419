"""Takes one width out of a slimmable network: a plain ResNet with its share of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimclr.errors import UserError
from slimclr.exporting.plain import ResNet
from slimclr.nn.inference import affine
from slimclr.nn.layers import SlimmableConv2d, SlimmableLinear, SwitchableLinear, width_key
from slimclr.nn.resnet import Bottleneck, SlimmableCifarResNet, SlimmableResNet

Head = SlimmableLinear | SwitchableLinear

_SHORTCUT = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}


def extract(backbone: SlimmableResNet, width: float, head: Head | None = None, *, fold: bool = False) -> ResNet:
    """A plain network that computes what one width of a slimmable one does in eval mode.

    Args:
        backbone: The slimmable network.
        width: One of its widths.
        head: Classifier of all widths; None: the plain network gives features.
        fold: Batch norm is folded into the convolutions (in double precision).

    Returns:
        The network in eval mode, on the CPU, with tensors of its own.

    Raises:
        UserError: The backbone was not trained at this width.
    """
    check_width(backbone, width)
    state = plain_state(backbone, width)
    if head is not None:
        state |= head_state(head, width)
    arguments = network_arguments(backbone, width, classes=len(state["fc.bias"]) if head is not None else 0)
    network = ResNet(**arguments)
    network.load_state_dict(state)
    return fold_batch_norm(network.eval(), arguments) if fold else network.eval()


def check_width(backbone: SlimmableResNet, width: float) -> None:
    """Refuse a width that a network has no batch norms for.

    Raises:
        UserError: It says how to get one.
    """
    if width not in backbone.widths:
        known = ", ".join(map(str, backbone.widths))
        raise UserError(
            f"width {width}: these weights were trained at {known}; name one of them, or give --recalibrate DATA, "
            "training images on which this width's batch norms are measured"
        )


def network_arguments(backbone: SlimmableResNet, width: float, *, classes: int) -> dict[str, Any]:
    """The arguments of `plain.ResNet` for one width."""
    return {
        "layers": list(backbone.blocks[backbone.depth]),
        "channels": round(backbone.base_width * width),
        "bottleneck": backbone.block is Bottleneck,
        "small_images": isinstance(backbone, SlimmableCifarResNet),
        "classes": classes,
        "folded": False,
    }


def plain_state(backbone: SlimmableResNet, width: float) -> dict[str, Tensor]:
    """A width's tensors under torchvision's names: `conv1.weight`, `layer1.0.bn1.running_mean`, ..."""
    state: dict[str, Tensor] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, SlimmableConv2d):
            weight = module.weight[module.out_slices[width], module.in_slices[width]]
            state[f"{_plain_name(name)}.weight"] = _own(weight)
        elif name.endswith(f".norms.{width_key(width)}"):
            base = _plain_name(name.removesuffix(f".norms.{width_key(width)}"))
            state |= {f"{base}.{key}": _own(tensor) for key, tensor in module.state_dict().items()}
    return state


def head_state(head: Head, width: float) -> dict[str, Tensor]:
    """A width's classifier as `fc.weight` (classes, features) and `fc.bias` (classes,)."""
    if isinstance(head, SwitchableLinear):
        linear = head.linears[width_key(width)]
        assert isinstance(linear, nn.Linear)
        return {"fc.weight": _own(linear.weight), "fc.bias": _own(linear.bias)}
    outputs, inputs = head.out_slices[width], head.in_slices[width]
    return {"fc.weight": _own(head.weight[outputs, inputs]), "fc.bias": _own(head.bias[outputs])}


@torch.no_grad()
def fold_batch_norm(network: ResNet, arguments: Mapping[str, Any]) -> ResNet:
    """The same network without batch norms; `arguments` are those that `network` was made with."""
    state = network.state_dict()
    folded = {name: tensor for name, tensor in state.items() if name.startswith("fc.")}
    modules = dict(network.named_modules())
    for name, convolution in modules.items():
        if isinstance(convolution, nn.Conv2d):
            norm = modules[_norm_name(name)]
            assert isinstance(norm, nn.BatchNorm2d)
            scale, bias = affine(norm)
            folded[f"{name}.weight"] = (convolution.weight.double() * scale[:, None, None, None]).float()
            folded[f"{name}.bias"] = bias.float()
    plain = ResNet(**{**arguments, "folded": True})
    plain.load_state_dict(folded)
    return plain.eval()


def _norm_name(convolution: str) -> str:
    """conv2 -> bn2, downsample.0 -> downsample.1."""
    before, _, last = convolution.rpartition(".")
    norm = "1" if last == "0" else last.replace("conv", "bn")
    return f"{before}.{norm}" if before else norm


def _plain_name(name: str) -> str:
    """stages.0.1.shortcut_conv -> layer1.1.downsample.0."""
    parts = name.split(".")
    if parts[0] == "stages":
        parts = [f"layer{int(parts[1]) + 1}", parts[2], *parts[3:]]
    return ".".join([*parts[:-1], _SHORTCUT.get(parts[-1], parts[-1])])


def _own(tensor: Tensor) -> Tensor:
    """A copy, so that a narrow file is small and nothing is shared."""
    return tensor.detach().cpu().contiguous().clone()
