"""The joint training against mmdet's own detector and one width at a time; needs mmdet (see test_in_venv.py)."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="mmdet is in .venvs/detection only; test_in_venv.py runs these tests there")

from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from slimclr.cli import main
from slimclr.detection import backbone, detector, operators  # noqa: F401 - puts the first two into mmengine's registries
from slimclr.detection.recipe import model_config
from slimclr.nn.weights import load_backbone
from tests.helpers.small_detection import SIZES

SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[None]:
    """mmdet's names are found; NMS takes double precision, which mmcv's compiled one does not, and so do masks."""
    register_all_modules()
    paste = fcn_mask_head._do_paste_mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fcn_mask_head,
            "_do_paste_mask",
            lambda masks, boxes, *rest, **more: paste(masks, boxes.float(), *rest, **more),
        )
        patch.setattr(sys.modules["mmcv.ops.nms"], "ext_module", operators)
        yield


def _sample(masks: int, classes: int) -> DetDataSample:
    """An image's annotations: rectangles of their boxes."""
    corners = torch.randint(0, SIDE // 2, (masks, 2))
    boxes = torch.cat([corners, corners + torch.randint(12, SIDE // 2, (masks, 2))], dim=1)
    drawn = torch.zeros(masks, SIDE, SIDE, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(drawn, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    sides = (SIDE, SIDE)
    sample = DetDataSample(metainfo={"img_shape": sides, "ori_shape": sides, "scale_factor": (1.0, 1.0)})
    labels = torch.randint(classes, (masks,))
    sample.gt_instances = InstanceData(
        bboxes=boxes.double(), labels=labels, masks=BitmapMasks(drawn.numpy(), SIDE, SIDE)
    )
    return sample


def _batch(classes: int, instances: tuple[int, ...]) -> dict[str, list]:
    """As a loader gives it: an image for each number of `instances`."""
    torch.manual_seed(4)
    images = [torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8) for _ in instances]
    return {"inputs": images, "data_samples": [_sample(count, classes) for count in instances]}


class Recorder(OptimWrapper):
    """Keeps the gradients instead of a step."""

    def step(self, **kwargs) -> None:
        parameters = [tensor for group in self.optimizer.param_groups for tensor in group["params"]]
        self.seen = [None if p.grad is None else p.grad.clone() for p in parameters]


def test_the_joint_step_has_the_sum_of_the_widths_own_gradients(weights: Path) -> None:
    """In double precision, each width in a detector of its own that never saw another."""
    network, _ = load_backbone(weights)
    config = model_config(weights=weights, stage_channels=network.stage_channels, classes=2, **SIZES)
    model = MODELS.build(ConfigDict(config)).double().train()
    alone = {width: copy.deepcopy(model) for width in model.widths}
    wrapper = Recorder(torch.optim.SGD(model.parameters(), lr=0.1))
    torch.manual_seed(3)
    log = model.train_step(_batch(2, (3, 2)), wrapper)
    # Samples of anchors and proposals are drawn one width after another.
    torch.manual_seed(3)
    batch = _batch(2, (3, 2))
    losses = {}
    for width, own in alone.items():
        data = own.data_preprocessor(copy.deepcopy(batch), True)
        losses[width] = own.parse_losses(own(**data, mode="loss", width=width))[0]
        losses[width].backward()
        assert log[f"loss_{width}"].item() == pytest.approx(losses[width].item(), rel=1e-12)
    assert losses[1.0].item() != losses[0.5].item()
    for (name, joint), *parts in zip(
        zip(dict(model.named_parameters()), wrapper.seen, strict=True),
        *(own.parameters() for own in alone.values()),
        strict=True,
    ):
        gradients = [part.grad for part in parts if part.grad is not None]
        assert gradients, name
        torch.testing.assert_close(joint, sum(gradients), rtol=1e-9, atol=1e-9, msg=name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    """mmdet's own Mask R-CNN with a file of torchvision's names, and ours with what `slimclr import` made of that file.

    Heads are the same random ones, confident enough to detect something.
    """
    folder = tmp_path_factory.mktemp("torchvision")
    torch.manual_seed(0)
    resnet = torchvision.models.resnet50()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    torch.save(resnet.state_dict(), folder / "resnet50.pth")
    assert main(["import", str(folder / "resnet50.pth"), "--out", str(folder / "weights.safetensors")]) == 0
    config = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model
    config.backbone.init_cfg.checkpoint = str(folder / "resnet50.pth")
    theirs = MODELS.build(config)
    theirs.init_weights()
    sizes = {"stage_channels": (256, 512, 1024, 2048), "classes": 80}
    ours = MODELS.build(ConfigDict(model_config(weights=folder / "weights.safetensors", **sizes)))
    with torch.no_grad():
        theirs.roi_head.bbox_head.fc_cls.weight *= 100
    heads = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("backbone.")}
    assert {name.split(".")[0] for name in ours.load_state_dict(heads, strict=False).missing_keys} == {"backbone"}
    return theirs.double(), ours.double()


@pytest.mark.parametrize("trained", [False, True])
def test_width_1_has_the_losses_of_mmdets_own(pair: tuple[nn.Module, nn.Module], trained: bool) -> None:
    """With batch norms as mmdet's recipe leaves them, and with trained ones."""
    losses = []
    for model in pair:
        model.train()
        for module in model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(trained)
        data = model.data_preprocessor(copy.deepcopy(_batch(80, (3,))), True)
        torch.manual_seed(5)
        losses.append(_flat(model(**data, mode="loss")))
    theirs, ours = losses
    assert len(theirs) == 14
    assert all(theirs[name] > 0 for name in ("loss_rpn_cls0", "loss_cls0", "loss_bbox0", "loss_mask0"))
    assert ours == pytest.approx(theirs, rel=1e-9)


def _flat(losses: dict[str, Tensor | list[Tensor]]) -> dict[str, float]:
    """Losses by name, RPN's by level, too."""
    named = {name: value if isinstance(value, list) else [value] for name, value in losses.items()}
    return {f"{name}{level}": part.item() for name, parts in named.items() for level, part in enumerate(parts)}


def test_width_1_proposes_and_detects_what_mmdets_own_does(pair: tuple[nn.Module, nn.Module]) -> None:
    found = []
    for model in pair:
        model.eval()
        data = model.data_preprocessor(copy.deepcopy(_batch(80, (3,))), False)
        with torch.no_grad():
            maps = model.extract_feat(data["inputs"] if model is pair[0] else (data["inputs"], 1.0))
            proposals = model.rpn_head.predict(maps, data["data_samples"], rescale=False)
            detections = model(**data, mode="predict")
        found.append((proposals, [sample.pred_instances for sample in detections]))
    for kind, (theirs, ours) in zip(("bboxes", "masks"), zip(*found, strict=True), strict=True):
        for own, other in zip(theirs, ours, strict=True):
            assert len(own) > 10
            assert len(own) == len(other)
            torch.testing.assert_close(other.bboxes, own.bboxes, rtol=1e-9, atol=1e-7)
            torch.testing.assert_close(other.scores, own.scores, rtol=1e-9, atol=1e-9)
            assert torch.equal(other.labels, own.labels)
            assert kind == "bboxes" or torch.equal(other.masks, own.masks)
