"""An exported backbone in mmdet's own Mask R-CNN, in .venvs/detection and without slimclr."""

import subprocess

import torch
from safetensors.torch import load_file, save_file

from slimclr.cli import main
from slimclr.exporting.comparison import difference
from tests.helpers.small_network import write_run
from tests.unit.detection.test_in_venv import VENV, pytestmark  # noqa: F401 - only where mmdet is

# Width 1.0: mmdet's own config, only `init_cfg` names another checkpoint. Narrow: the exported config.
ELSEWHERE = """
import sys
sys.modules["slimclr"] = None
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from safetensors.torch import load_file, save_file

register_all_modules()
images, outputs = load_file("images.safetensors")["images"], {}
for width in ("1.0", "0.25"):
    if width == "1.0":
        config = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
        config.model.backbone.init_cfg = dict(type="Pretrained", checkpoint="1.0/mmdet/backbone.pth")
    else:
        config = Config.fromfile("0.25/mmdet/mask_rcnn.py")
        config.model.backbone.init_cfg.checkpoint = "0.25/mmdet/backbone.pth"
    detector = MODELS.build(config.model)
    detector.init_weights()
    detector.eval()
    with torch.no_grad():
        outputs[width] = detector.backbone(images)[-1].contiguous()
        detector.neck(detector.backbone(images))
save_file(outputs, "maps.safetensors")
"""


def test_mmdet_loads_it_through_init_cfg(tmp_path):
    backbone, _ = write_run(tmp_path / "results", depth=50, base_width=64, size=64)
    for width in (1.0, 0.25):
        out = ["--out", str(tmp_path / str(width)), "--results", str(tmp_path / "results")]
        assert main(["export", "slim", "--width", str(width), "--format", "mmdet", *out]) == 0
    images = torch.randn(1, 3, 64, 64)
    save_file({"images": images}, tmp_path / "images.safetensors")
    command = [VENV / "bin/python", "-c", ELSEWHERE]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    maps = load_file(tmp_path / "maps.safetensors")
    with torch.no_grad():
        for width in (1.0, 0.25):
            assert difference(maps[str(width)], backbone.feature_maps(images, width)[-1]) < 1e-5
