"""How a recipe reads images."""

from typing import Literal

Backend = Literal["torchvision", "torchvision_tensor", "dali", "dali_gpu"]

LOADER = (
    "torchvision: Pillow's operations, as published; torchvision_tensor: torchvision's on tensors, faster; dali: "
    "DALI's on the CPU, faster still; dali_gpu: DALI's on the GPU, which also decodes."
)
