"""What COCO's annotations must hold, so that neither training nor evaluation stops at them.

Only what would stop mmdet or pycocotools, or make them count wrongly, is a fault. What they pass over is passed over
here: annotations of unknown photos or categories and, in training, empty boxes and masks without a whole polygon.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

# Photos with a shorter side are left out of training, in pixels.
MIN_SIDE = 32
_KINDS = ("photo", "image", "annotation")
_NUMBERS = frozenset((int, float))
# What pycocotools writes for the runs of a mask; the last character ends a number.
_RUNS = re.compile("[0-o]*[0-O]")


@dataclass
class Faults:
    """What is wrong with one split, by kind of fault.

    Attributes:
        found: (what it is found in, the fault) -> the first one's name, and how many there are.
    """

    found: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)

    def add(self, what: str, name: object, fault: str | None) -> None:
        """Note a fault of the annotation, image or photo `name`; None is none."""
        if fault is not None:
            first, count = self.found.get((what, fault), (str(name), 0))
            self.found[what, fault] = first, count + 1

    def __bool__(self) -> bool:
        return bool(self.found)

    def lines(self, totals: Mapping[str, int]) -> list[str]:
        """One for each kind: the first one's name, the fault, and how many of `totals` have it."""
        kinds = sorted(self.found.items(), key=lambda kind: _KINDS.index(kind[0][0]))
        return [
            f"{first if what == 'photo' else f'{what} {first}'}: {fault} ({count:,} of {totals[what]:,} {what}s)"
            for (what, fault), (first, count) in kinds
        ]


@dataclass(frozen=True)
class Split:
    """One annotation file's content, as far as it can be used.

    Attributes:
        images: By id.
        categories: Id and name of each, in the file's order.
        instances: Number of instances that training learns from, or evaluation looks for.
        totals: Number of images and of annotations.
        faults: What is wrong.
    """

    images: dict[Any, Mapping[str, Any]]
    categories: list[tuple[Any, str]]
    instances: int
    totals: dict[str, int]
    faults: Faults

    @classmethod
    def check(cls, content: Mapping[str, Any], *, evaluated: bool) -> Self:
        """Look at an annotation file.

        Args:
            content: The file's JSON.
            evaluated: It is compared with detections by pycocotools; otherwise mmdet trains on it.

        Raises:
            KeyError, TypeError, AttributeError: It is no such file, or something in it is not even of COCO's types.
        """
        faults = Faults()
        images = _images(content["images"], faults)
        categories = [(category["id"], category["name"]) for category in content["categories"]]
        known = {identity for identity, _ in categories}
        seen: dict[Any, bool] = {}
        instances = 0
        for position, annotation in enumerate(content["annotations"]):
            identity = annotation.get("id")
            name = f"number {position + 1}" if identity is None else identity
            missing = _lacks(annotation, ("id", "image_id", "category_id"))
            if missing:
                faults.add("annotation", name, missing)
                continue
            image = images.get(annotation["image_id"])
            if identity in seen and (image is not None or seen[identity]):
                faults.add("annotation", name, "the 'id' of another annotation, too")
            seen[identity] = image is not None
            if image is None:
                continue
            counts = annotation["category_id"] in known
            fault = _fault(annotation, image, counts=counts, evaluated=evaluated)
            faults.add("annotation", name, fault)
            if fault is None and counts and not annotation.get("iscrowd"):
                instances += evaluated or _taught(annotation, image)
        totals = {"image": len(content["images"]), "annotation": len(content["annotations"])}
        return cls(images, categories, instances, totals, faults)


def _images(entries: Iterable[Mapping[str, Any]], faults: Faults) -> dict[Any, Mapping[str, Any]]:
    """Images without a fault by id; the same entry twice does not hurt."""
    images: dict[Any, Mapping[str, Any]] = {}
    for position, image in enumerate(entries):
        identity = image.get("id")
        name = f"number {position + 1}" if identity is None else identity
        missing = _lacks(image, ("id", "file_name", "width", "height"))
        if missing:
            faults.add("image", name, missing)
        elif not isinstance(image["file_name"], str):
            faults.add("image", name, "a 'file_name' that is no text")
        elif not all(type(image[side]) in _NUMBERS and image[side] > 0 for side in ("width", "height")):
            faults.add("image", name, "a 'width' or 'height' that is no positive number")
        elif images.setdefault(identity, image) != image:
            faults.add("image", name, "the 'id' of another image, too")
    return images


def _lacks(entry: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    missing = [repr(key) for key in keys if entry.get(key) is None]
    return f"no {' and no '.join(missing)}" if missing else None


def _fault(annotation: Mapping[str, Any], image: Mapping[str, Any], *, counts: bool, evaluated: bool) -> str | None:
    """What would stop training or evaluation, or make the latter count wrongly.

    Args:
        annotation: Of this image.
        image: Its entry.
        counts: Its category is one of the file's.
        evaluated: Whether pycocotools compares it with detections.
    """
    measured, dropped = evaluated and counts, bool(annotation.get("ignore"))
    if measured or not dropped:
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and _finite(box)):
            return "no 'bbox' of four numbers"
        if (measured or not _outside(box, image)) and not _finite([annotation.get("area")]):
            return "no 'area'"
    if measured:
        if not _numeric(annotation["id"]):
            return "an 'id' that is no number"
        if type(annotation.get("iscrowd")) not in (int, bool):
            return "no 'iscrowd', which COCO's evaluation needs (0, or 1 for a crowd)"
        return _unusable(annotation.get("segmentation"), image, evaluated=True)
    if evaluated or not counts or dropped or _empty(annotation, image) or min(_size(image)) < MIN_SIDE:
        return None
    return _unusable(annotation.get("segmentation"), image, evaluated=False)


def _unusable(mask: Any, image: Mapping[str, Any], *, evaluated: bool) -> str | None:
    """Why a mask can be drawn neither from polygons nor from runs."""
    if not mask:
        return "an empty or missing 'segmentation'"
    if isinstance(mask, dict):
        return _unusable_runs(mask, image, evaluated=evaluated)
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "a 'segmentation' that is neither a list of polygons nor run lengths (RLE)"
    # Training leaves polygons without three whole points out; evaluation takes the kind of all from the first.
    if evaluated and len(mask[0]) < 5:
        return "a polygon of fewer than six numbers"
    whole = mask if evaluated else [polygon for polygon in mask if _drawn(polygon)]
    return None if all(_NUMBERS.issuperset(map(type, polygon)) for polygon in whole) else "a polygon of no numbers"


def _unusable_runs(mask: Mapping[str, Any], image: Mapping[str, Any], *, evaluated: bool) -> str | None:
    runs, size = mask.get("counts"), mask.get("size")
    if size is None or not isinstance(runs, list | str):
        # mmdet passes over it.
        return "run lengths (RLE) without 'counts' or 'size'" if evaluated else None
    height, width = _size(image)
    if size != [height, width]:
        shape = " x ".join(map(str, reversed(size))) if isinstance(size, list) else str(size)
        return f"run lengths (RLE) of {shape} pixels, but its image has {width} x {height}"
    if isinstance(runs, str):
        if not _RUNS.fullmatch(runs):
            return "run lengths (RLE) that are not pycocotools' text"
        runs = _decoded(runs)
    whole = all(type(run) is int and run >= 0 for run in runs)
    # Evaluation walks along both masks until both end: one that is short would keep it there for ever.
    if whole and (sum(runs) == height * width or (sum(runs) < height * width and not evaluated)):
        return None
    return "run lengths (RLE) that do not fit its image"


def _decoded(text: str) -> list[int]:
    """Run lengths from pycocotools' text: five bits a character, the lowest first, as differences from the run but one.

    The sixth bit says that a number goes on, the fifth of its last character is the sign.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        # The first three are no differences.
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _taught(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether mmdet learns from an annotation without a fault, which is of no crowd."""
    mask = annotation.get("segmentation")
    drawn = any(map(_drawn, mask)) if isinstance(mask, list) else isinstance(mask, dict) and "counts" in mask
    dropped = annotation.get("ignore") or min(_size(image)) < MIN_SIDE or _empty(annotation, image)
    return drawn and not dropped


def _drawn(polygon: list[Any]) -> bool:
    """Whether mmdet draws a polygon."""
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _empty(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether mmdet leaves out an annotation because of its box."""
    box = annotation["bbox"]
    return _outside(box, image) or annotation["area"] <= 0 or min(box[2:]) < 1


def _outside(box: list[float], image: Mapping[str, Any]) -> bool:
    x, y, width, height = box
    rows, columns = _size(image)
    return min(x + width, columns) <= max(x, 0) or min(y + height, rows) <= max(y, 0)


def _size(image: Mapping[str, Any]) -> tuple[Any, Any]:
    """Height and width, in pixels."""
    return image["height"], image["width"]


def _finite(values: Iterable[Any]) -> bool:
    return all(type(value) in _NUMBERS and -math.inf < value < math.inf for value in values)


def _numeric(identity: Any) -> bool:
    """Whether pycocotools can put an id into its array of matches."""
    try:
        return math.isfinite(float(identity))
    except (TypeError, ValueError):
        return False
