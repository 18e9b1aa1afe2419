"""What detectors see on a few photos, as the transfer drew it, for the page."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from slimclr.errors import UserError
from slimclr.reporting.results import Record

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Picture:
    """The photos as one width of one run sees them.

    Attributes:
        run: The configured name.
        width: As files spell it.
        box_ap: Its figure, for the caption; None where it is not known.
        size: Pixels, width and height.
        source: The JPEG as a data URI, so that the page is one file.
    """

    run: str
    width: str
    box_ap: float | None
    size: tuple[int, int]
    source: str


def read_pictures(results: Path, records: Iterable[Record]) -> list[Picture]:
    """The pictures beside the metrics of each run's first transfer; detectors of earlier versions have none.

    Args:
        results: The folder with transfer/.
        records: What was read from there.

    Raises:
        UserError: A picture is no JPEG, or too large to be one that the transfer drew.
    """
    pictures: list[Picture] = []
    first: dict[str, str] = {}
    for record in records:
        metrics = record.metrics
        if record.stage != "transfer" or first.setdefault(record.run, metrics.run) != metrics.run:
            continue
        for width, figures in metrics.widths.items():
            path = results / "transfer" / metrics.run / "pictures" / f"{width}.jpg"
            if path.is_file():
                size, source = _read(path)
                pictures.append(Picture(record.run, width, figures.get("box_ap"), size, source))
    return pictures


def _read(path: Path) -> tuple[tuple[int, int], str]:
    content = path.read_bytes()
    try:
        with Image.open(path, formats=["JPEG"]) as image:
            size = image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        size = (0, 0)
    if not all(size) or len(content) > _MOST_BYTES:
        target = path.parents[1] / "metrics.json"
        raise UserError(
            f"{path}: not a picture of the transfer; run the rule transfer again: snakemake --force {target}"
        )
    return size, "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
