"""mmcv's compiled operators that Mask R-CNN needs, by torchvision's: nothing has to be compiled.

envs/install.sh copies this file to `mmcv/_ext.py`, where mmcv looks for its own operators; mmdet's programs find them
there, too, without slimclr. It needs torch and torchvision alone. Functions have the names and arguments of mmcv's
`ops/csrc/pytorch/pybind.cpp`; they were compared with its compiled ones (docs/architecture.md).
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (n, 4) that are kept, from the highest of the scores (n,) down.

    Args:
        boxes: Corners x1, y1, x2, y2.
        scores: By box.
        iou_threshold: A box that overlaps a better one by more is dropped.
        offset: 1: sides are x2 - x1 + 1, as in mmdet 1.
    """
    # mmcv's own order of equal scores, and its threshold of single precision.
    order = scores.sort(0, descending=True)[1]
    boxes = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    return order[torch.ops.torchvision.nms(boxes, ranks, torch.tensor(iou_threshold).item())]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (regions, channels, aligned_height, aligned_width) with means over the bins of regions.

    Args:
        input: Maps (n, channels, h, w).
        rois: Image and corners, (regions, 5).
        output: See above.
        argmax_y: Of maxima; not used.
        argmax_x: Likewise.
        aligned_height: Bins.
        aligned_width: Bins.
        spatial_scale: Pixels of the maps for one of `rois`.
        sampling_ratio: Points a side and bin; 0: as many as the bin has pixels.
        pool_mode: 1, the mean.
        aligned: Pixels have their values in the middle.

    Raises:
        NotImplementedError: The maximum is asked for.
    """
    _only_means(pool_mode)
    found = torch.ops.torchvision.roi_align(
        input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(found)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` (n, channels, h, w); see `roi_align_forward`."""
    _only_means(pool_mode)
    bins = aligned_height, aligned_width
    found = torch.ops.torchvision._roi_align_backward(
        grad_output, rois, spatial_scale, *bins, *grad_input.shape, sampling_ratio, aligned
    )
    grad_input.copy_(found)


def _only_means(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError("roi_align with pool_mode 'max': torchvision has the mean only")


def __getattr__(name: str) -> Callable[..., Any]:
    """Any other operator of mmcv: there, as mmcv looks for all when it is imported, but not to be called."""
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*arguments: Any, **named: Any) -> None:
        raise NotImplementedError(f"mmcv's operator {name} is not among those that torchvision has (slimclr/detection)")

    return missing
