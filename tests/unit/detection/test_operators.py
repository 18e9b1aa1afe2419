"""torchvision's operators in the place of mmcv's compiled ones, against slow ones and against what mmcv's gave."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimclr.detection import operators

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/mmcv_operators.json").read_text())


def boxes(count: int, *, whole: bool) -> Tensor:
    """Corners from plain arithmetic, so that the golden figures' inputs are the same with any torch."""
    i = torch.arange(count, dtype=torch.float64)
    corners = torch.stack([i * 37 % 101, i * 53 % 97], dim=1)
    sides = torch.stack([5 + i * 29 % 61, 5 + i * 17 % 59], dim=1)
    made = torch.cat([corners, corners + sides], dim=1)
    return (made if whole else made * 1.37).float()


def scores(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) * 61 % 211 / 211).float()


@pytest.mark.parametrize("case", GOLDEN["nms"], ids=str)
def test_nms_keeps_what_mmcv_keeps_in_its_order(case: dict) -> None:
    made = boxes(200, whole=case["whole"]), scores(200)
    kept = operators.nms(*made, iou_threshold=case["threshold"], offset=case["offset"])
    assert kept.tolist() == case["kept"]


@pytest.mark.parametrize(
    "case", GOLDEN["roi_align"], ids=lambda case: f"{case['size']}-{case['ratio']}-{case['aligned']}"
)
def test_roi_align_is_mmcvs_forwards_and_backwards(case: dict) -> None:
    i = torch.arange(2 * 3 * 20 * 24, dtype=torch.float64)
    maps = (i * 7 % 31 / 31 - 0.5).float().reshape(2, 3, 20, 24)
    rois = torch.cat([(torch.arange(12) % 2)[:, None].float(), boxes(12, whole=False)], dim=1)
    size, unused = case["size"], torch.zeros(0)
    output, gradient = torch.zeros(12, 3, size, size), torch.zeros_like(maps)
    settings = {"aligned_height": size, "aligned_width": size, "spatial_scale": 0.25, "pool_mode": 1}
    settings |= {"sampling_ratio": case["ratio"], "aligned": case["aligned"]}
    operators.roi_align_forward(maps, rois, output, unused, unused, **settings)
    operators.roi_align_backward(output, rois, unused, unused, gradient, **settings)
    for tensor, name in ((output, "output"), (gradient, "gradient")):
        wanted = torch.tensor(case[name])
        torch.testing.assert_close(tensor.flatten()[:: len(tensor.flatten()) // 20][:20], wanted, rtol=1e-5, atol=1e-6)


def test_nms_equals_a_slow_one() -> None:
    torch.manual_seed(0)
    corners = torch.rand(150, 2, dtype=torch.float64) * 80
    made = torch.cat([corners, corners + torch.rand(150, 2, dtype=torch.float64) * 50], dim=1)
    points = torch.rand(150, dtype=torch.float64)
    left, kept = points.argsort(descending=True).tolist(), []
    while left:
        first, *left = left
        kept.append(first)
        left = [other for other in left if _overlap(made[first].tolist(), made[other].tolist()) <= 0.5]
    assert operators.nms(made, points, iou_threshold=0.5, offset=0).tolist() == kept


def _overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(NotImplementedError, match="deform_conv_forward"):
        operators.deform_conv_forward()
    with pytest.raises(NotImplementedError, match="max"):
        operators.roi_align_forward(*[torch.zeros(1)] * 5, 1, 1, 1.0, 0, pool_mode=0, aligned=True)
