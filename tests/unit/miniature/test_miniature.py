import io
import json

import numpy as np
import pytest
from PIL import Image

from slimclr.files import sha256
from slimclr.miniature.write import write_miniature
from tests.helpers.tar_tools import SMALL, members


def _hashes(root):
    return {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_gives_same_bytes(miniature, tmp_path):
    write_miniature(tmp_path / "again", **SMALL)
    write_miniature(tmp_path / "other", seed=1, **SMALL)
    first = _hashes(miniature.root)
    assert _hashes(tmp_path / "again") == first
    other = _hashes(tmp_path / "other")
    assert other["ILSVRC2012_img_train.tar"] != first["ILSVRC2012_img_train.tar"]


def test_train_archive_has_the_official_layout(miniature):
    outer = members(miniature.train)
    assert len(outer) == SMALL["classes"]
    for info, data in outer:
        wnid = info.name.removesuffix(".tar")
        inner = members(data)
        assert [image.name for image, _ in inner] == [f"{wnid}_{n}.JPEG" for n in range(SMALL["train_per_class"])]
        for _, photo in inner:
            with Image.open(io.BytesIO(photo)) as image:
                assert image.format == "JPEG"
                assert 72 <= min(image.size) <= max(image.size) <= 96


def test_too_many_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="classes is 99"):
        write_miniature(tmp_path, classes=99)


@pytest.fixture(scope="module", params=["train2017", "val2017"])
def coco(request, miniature):
    content = json.loads((miniature.coco / "annotations" / f"instances_{request.param}.json").read_text())
    return content, miniature.coco / request.param


def test_coco_photos_are_there_with_the_size_stated(coco):
    content, folder = coco
    assert sorted(path.name for path in folder.iterdir()) == [image["file_name"] for image in content["images"]]
    for image in content["images"]:
        with Image.open(folder / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])


def test_coco_polygons_boxes_and_areas_agree(coco):
    content, _ = coco
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        assert annotation["category_id"] in categories
        left, top, width, height = annotation["bbox"]
        assert left >= 0
        assert top >= 0
        assert left + width <= image["width"] + 0.01
        assert top + height <= image["height"] + 0.01
        if not annotation["iscrowd"]:
            (polygon,) = annotation["segmentation"]
            x, y = np.array(polygon).reshape(-1, 2).T
            assert [x.min(), y.min(), np.ptp(x), np.ptp(y)] == pytest.approx(annotation["bbox"], abs=0.02)
            assert abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2) == pytest.approx(
                annotation["area"], abs=0.1
            )
            assert annotation["area"] > 50


def test_coco_has_a_crowd_and_a_photo_without_objects(miniature):
    content = json.loads((miniature.coco / "annotations" / "instances_train2017.json").read_text())
    (crowd,) = [annotation for annotation in content["annotations"] if annotation["iscrowd"]]
    height, width = crowd["segmentation"]["size"]
    counts = crowd["segmentation"]["counts"]
    assert sum(counts) == height * width
    assert sum(counts[1::2]) == crowd["area"]
    mask = np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert box == crowd["bbox"]
    used = {annotation["image_id"] for annotation in content["annotations"]}
    assert len([image for image in content["images"] if image["id"] not in used]) == 1
