"""A plain ResNet, as taken out of a slimmable one: nothing slimmable, no import but torch and Python's own.

This file travels with exported weights. In the folder that it lies in:

    from resnet import load
    network = load(".")  # torch.nn.Module in eval mode
    outputs = network(images)  # (n, 3, h, w), normalised as config.json says

Tensors have the names of torchvision's ResNets; at width 1.0 a ResNet-50 is `torchvision.models.resnet50`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class Unit(nn.Sequential):
    """A convolution and its batch norm, or with `folded` the convolution alone: the shortcut of a block."""

    def __init__(self, inputs: int, outputs: int, stride: int, folded: bool):
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, stride, bias=folded)]
        super().__init__(*layers, *([] if folded else [nn.BatchNorm2d(outputs)]))


class Block(nn.Module):
    """A residual block: 1x1, 3x3, 1x1 convolutions (bottleneck), or two of 3x3 (basic).

    Args:
        inputs: Input channels.
        channels: Channels of the 3x3 convolution.
        stride: Its stride; of the first one in a basic block.
        bottleneck: Which kind; a bottleneck's output has four times the channels.
        folded: Convolutions with a bias and no batch norm.
    """

    def __init__(self, inputs: int, channels: int, stride: int, *, bottleneck: bool, folded: bool):
        super().__init__()
        sizes = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        outputs = channels * (4 if bottleneck else 1)
        before = inputs
        self.convolutions = len(sizes)
        for number, (kernel, step) in enumerate(sizes, 1):
            after = outputs if number == len(sizes) else channels
            self.add_module(f"conv{number}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=folded))
            self.add_module(f"bn{number}", nn.Identity() if folded else nn.BatchNorm2d(after))
            before = after
        self.downsample = Unit(inputs, outputs, stride, folded) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        out = x
        for number in range(1, self.convolutions + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            if number < self.convolutions:
                out = F.relu(out)
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A ResNet of any number of channels.

    Args:
        layers: Blocks of every stage.
        channels: Channels of the first convolution, doubled with every stage.
        bottleneck: Bottleneck blocks (ResNet-50), or basic ones (CIFAR's).
        small_images: For 32 px images: 3x3 first convolution of stride 1 and no pooling behind it.
        classes: Outputs of the classifier `fc`; 0: there is none, and the output are the features.
        folded: Batch norm is folded into the convolutions, which have a bias.
    """

    def __init__(
        self,
        layers: Sequence[int],
        channels: int = 64,
        *,
        bottleneck: bool = True,
        small_images: bool = False,
        classes: int = 0,
        folded: bool = False,
    ):
        super().__init__()
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.small_images, self.stages = small_images, len(layers)
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=folded)
        self.bn1 = nn.Identity() if folded else nn.BatchNorm2d(channels)
        inputs = channels
        for stage, count in enumerate(layers):
            blocks = []
            for number in range(count):
                step = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(inputs, channels * 2**stage, step, bottleneck=bottleneck, folded=folded))
                inputs = channels * 2**stage * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out_features = inputs
        self.fc = nn.Linear(inputs, classes) if classes else nn.Identity()

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the stages for normalised images (n, 3, h, w)."""
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small_images:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return tuple(maps)

    def features(self, x: Tensor) -> Tensor:
        """Features after global average pooling (n, out_features)."""
        return torch.flatten(F.adaptive_avg_pool2d(self.feature_maps(x)[-1], 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes); the features where there is no classifier."""
        return self.fc(self.features(x))


def load(folder: str | Path) -> ResNet:
    """The network of an exported folder, in eval mode on the CPU.

    Args:
        folder: With config.json and model.safetensors.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = ResNet(**config["network"])
    network.load_state_dict(read_safetensors(folder / "model.safetensors"))
    return network.eval()


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file: the length of a JSON header, the header, the numbers."""
    data = bytearray(Path(path).read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        kind, (start, end) = _TYPES[entry["dtype"]], entry["data_offsets"]
        values = torch.frombuffer(data, dtype=kind, count=(end - start) // kind.itemsize, offset=begin + start)
        tensors[name] = values.reshape(entry["shape"])
    return tensors
