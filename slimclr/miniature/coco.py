"""A COCO with generated photos."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from slimclr.files import write_text
from slimclr.miniature.imagenet import write_bytes
from slimclr.miniature.photos import draw, jpeg

# Least and greatest radius of an object, as a share of the photo's shorter side.
COCO_RADIUS = (0.16, 0.30)


def write_coco(root: Path, split: str, seeds: list[int], names: list[str], count: int, *, first_id: int) -> None:
    """One split of COCO; every 20th photo has no object, every 20th a crowd."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([*seeds, index])
        width, height = (int(side) for side in rng.integers(96, 161, 2))
        ranks = rng.integers(0, len(names), 0 if index % 20 == 7 else int(rng.integers(1, 6)))
        photo, outlines = draw(rng, width, height, [names[rank] for rank in ranks], COCO_RADIUS)
        identity = first_id + index
        write_bytes(root / split / f"{identity:012d}.jpg", jpeg(photo))
        images.append(
            {
                "license": 1,
                "file_name": f"{identity:012d}.jpg",
                "coco_url": "",
                "height": height,
                "width": width,
                "date_captured": "2012-06-06 00:00:00",
                "flickr_url": "",
                "id": identity,
            }
        )
        for number, (rank, outline) in enumerate(zip(ranks, outlines, strict=True)):
            crowd = index % 20 == 13 and number == 0
            annotations.append(
                {
                    **(_crowd(outline, width, height) if crowd else _polygon(outline, width, height)),
                    "iscrowd": int(crowd),
                    "image_id": identity,
                    "category_id": _category_id(int(rank)),
                    "id": identity * 10 + number,
                }
            )
    categories = [{"supercategory": "shape", "id": _category_id(rank), "name": name} for rank, name in enumerate(names)]
    content = {
        "info": {"description": f"SlimCLR miniature {split}", "version": "1.0", "year": 2012},
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    write_text(root / "annotations" / f"instances_{split}.json", json.dumps(content))


def _category_id(rank: int) -> int:
    """Ids with gaps, as COCO's."""
    return 3 * rank + 1


def _clip(outline: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of a polygon that lies within the photo (Sutherland and Hodgman, 1974), (points, 2)."""
    for axis, bound, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = sign * (outline[:, axis] - bound)
        kept = []
        for start, end, here, there in zip(outline, np.roll(outline, -1, 0), inside, np.roll(inside, -1), strict=True):
            if here >= 0:
                kept.append(start)
            if (here >= 0) != (there >= 0):
                kept.append(start + (end - start) * here / (here - there))
        outline = np.array(kept)
    return outline


def _polygon(outline: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """Segmentation, area and box of one object, in pixels, as far as it lies within the photo."""
    points = np.round(_clip(outline, width, height), 2)
    x, y = points.T
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    left, top = float(x.min()), float(y.min())
    box = [left, top, round(float(x.max()) - left, 2), round(float(y.max()) - top, 2)]
    return {"segmentation": [points.ravel().tolist()], "area": round(area, 4), "bbox": box}


def _crowd(outline: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """The same with the mask as run lengths, column by column, beginning with the ground, as COCO's crowds."""
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline], fill=1)
    mask = np.asarray(canvas)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(np.int8)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    segmentation = {"counts": counts, "size": [height, width]}
    return {"segmentation": segmentation, "area": int(mask.sum()), "bbox": [int(value) for value in box]}
