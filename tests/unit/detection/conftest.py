"""Data of COCO's shape and a backbone, both tiny."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import save_weights

WIDTHS = (1.0, 0.5)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = SlimmableResNet(14, 8, WIDTHS, zero_init_residual=False)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    tensors = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    save_weights(path, tensors, {"depth": 14, "base_width": 8, "widths": list(WIDTHS)})
    return path


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with one triangle and one box each; ids of categories and images have gaps."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        (folder / f"{split}2017").mkdir()
        images, annotations = [], []
        for index in range(count):
            image = Image.fromarray(rng.integers(0, 90, (64, 72, 3), dtype=np.uint8))
            name, image_id = f"{index:012d}.jpg", 10 * index + 3
            images.append({"id": image_id, "file_name": name, "width": 72, "height": 64})
            for kind, polygon in ((7, [(8, 8), (30, 8), (8, 34)]), (90, [(40, 20), (64, 20), (64, 50), (40, 50)])):
                points = np.array(polygon) + rng.integers(-4, 5, 2)
                ImageDraw.Draw(image).polygon([tuple(p) for p in points.tolist()], fill=(230, 40 * (kind == 7), 0))
                low, size = points.min(0), np.ptp(points, axis=0)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": kind,
                        "bbox": [*low.tolist(), *size.tolist()],
                        "area": float(size.prod() / (2 if kind == 7 else 1)),
                        "iscrowd": 0,
                        "segmentation": [points.ravel().astype(float).tolist()],
                    }
                )
            image.save(folder / f"{split}2017" / name)
        categories = [{"id": 7, "name": "triangle"}, {"id": 90, "name": "box"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return folder
