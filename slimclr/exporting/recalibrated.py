"""A width that was never trained: its batch norms are measured on training images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from slimclr.errors import UserError
from slimclr.exporting.comparison import photos_of
from slimclr.exporting.extract import Head
from slimclr.exporting.source import Classifier, Preprocessing, Source
from slimclr.nn.untrained import recalibrate, with_further_widths
from slimclr.probe import OwnClassifier
from slimclr.probe.opened import with_widths

_PHOTOS = 2048


def recalibrated(
    source: Source, found: Classifier | None, width: float, data: Path | None
) -> tuple[Source, Classifier | None, int]:
    """The same network and classifier with one more width.

    Args:
        source: The weights.
        found: Their classifier.
        width: The width, which these weights were not trained at.
        data: Training images; None: nothing is done.

    Returns:
        Both with this width, and on how many images it was measured.

    Raises:
        UserError: The width does not give whole channels, sub-networks share none, or no image can be read.
    """
    if data is None:
        return source, found, 0
    if width in source.backbone.widths:
        raise UserError(f"--recalibrate {data}: width {width} was trained; leave it out")
    preprocessing = (found and found.preprocessing) or source.preprocessing
    try:
        if found is None:
            source = replace(source, backbone=with_further_widths(source.backbone, [width]))
        else:
            trained = OwnClassifier(source.backbone, found.head, len(found.classes))
            trained.widths = found.widths
            further = with_widths(trained, (*found.widths, width))
            assert isinstance(further.head, Head)
            source, found = replace(source, backbone=further.backbone), replace(found, head=further.head)
    except ValueError as error:
        raise UserError(f"{source.weights}: cannot have width {width}: {error}; choose another one") from None
    images = recalibrate(source.backbone, [width], _batches(data, preprocessing))
    return source, found, images


def _batches(data: Path, preprocessing: Preprocessing) -> Iterator[Tensor]:
    return photos_of(data, preprocessing, _PHOTOS, shuffled=True)
