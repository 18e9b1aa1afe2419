"""What a detector sees at every width, drawn on a few validation photos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image, ImageDraw, ImageFont, ImageOps

from slimclr.detection.detector import SlimmableMaskRCNN
from slimclr.files import atomic_path

_PHOTOS, _HEIGHT, _GAP = 4, 240, 6
# Detections of at least this score are drawn, the best of a photo in any case.
SCORE, _MOST = 0.3, 10
Colour = tuple[int, int, int]
_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def write_pictures(folder: Path, model: SlimmableMaskRCNN, images: Any) -> None:
    """Write `<width>.jpg` for every width: the same photos in a row, with boxes, masks, names and scores.

    Args:
        folder: Where they go.
        model: The trained detector, in eval mode.
        images: mmdet's data set of the validation photos, in test mode.
    """
    chosen = _chosen(images)
    for width in model.widths:
        row = [_drawn(images[index], model, width, images.metainfo["classes"]) for index in chosen]
        with atomic_path(folder / f"{width}.jpg") as part:
            _in_a_row(row).save(part, format="JPEG", quality=85)


def _chosen(images: Any) -> list[int]:
    """Photos with an instance, evenly over the data set."""
    taught = [index for index in range(len(images)) if images.get_data_info(index)["instances"]]
    return [taught[at] for at in np.linspace(0, len(taught), min(_PHOTOS, len(taught)), endpoint=False).astype(int)]


@torch.no_grad()
def _drawn(image: dict[str, Any], model: SlimmableMaskRCNN, width: float, classes: Sequence[str]) -> Image.Image:
    """A photo with what one width finds on it."""
    path = image["data_samples"].img_path
    with Image.open(path) as file:
        photo = ImageOps.exif_transpose(file).convert("RGB")
    (sample,) = model.predict_step(pseudo_collate([image]), width)
    scale = _HEIGHT / photo.height
    small = photo.resize((max(1, round(photo.width * scale)), _HEIGHT))
    found = list(_best(sample.pred_instances))
    for *_, mask, colour in found:
        if mask is not None:
            small = _tinted(small, mask, colour)
    draw, font = ImageDraw.Draw(small), ImageFont.load_default(size=12)
    for box, label, score, _, colour in found:
        left, top, right, bottom = (round(float(side) * scale) for side in box)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
        text = f"{classes[label]} {score:.2f}"
        place = draw.textbbox((left + 2, max(0, top - 15)), text, font=font)
        draw.rectangle((place[0] - 2, place[1] - 1, place[2] + 2, place[3] + 1), fill=colour)
        draw.text(place[:2], text, fill=(0, 0, 0), font=font, anchor="lt")
    return small


def _best(instances: Any) -> Iterator[tuple[np.ndarray, int, float, np.ndarray | None, Colour]]:
    """Box, class, score, mask and colour of what is drawn, the best last, so that it lies on top."""
    scores = instances.scores.cpu().numpy()
    order = np.argsort(-scores, kind="stable")[:_MOST]
    masks = instances.masks if "masks" in instances else None
    for rank, index in reversed([(rank, at) for rank, at in enumerate(order) if rank == 0 or scores[at] >= SCORE]):
        mask = None if masks is None else np.asarray(torch.as_tensor(masks[index]).cpu(), dtype=bool)
        label, score = int(instances.labels[index]), float(scores[index])
        yield instances.bboxes[index].cpu().numpy(), label, score, mask, _COLOURS[rank % len(_COLOURS)]


def _tinted(photo: Image.Image, mask: np.ndarray, colour: Colour) -> Image.Image:
    """The photo, with half of its colour replaced where the mask (h, w of the whole photo) is."""
    where = Image.fromarray(mask.astype(np.uint8) * 128).resize(photo.size)
    return Image.composite(Image.new("RGB", photo.size, colour), photo, where)


def _in_a_row(photos: Sequence[Image.Image]) -> Image.Image:
    total = sum(photo.width for photo in photos) + _GAP * (len(photos) - 1)
    row = Image.new("RGB", (total, _HEIGHT), (255, 255, 255))
    left = 0
    for photo in photos:
        row.paste(photo, (left, 0))
        left += photo.width + _GAP
    return row
