"""The classes that a network sees in photos."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from torch import Tensor

from slimclr.errors import UserError
from slimclr.exporting.names import class_names
from slimclr.exporting.networks import Networks, is_exported, open_networks
from slimclr.exporting.passes import USUAL, Running, passes
from slimclr.exporting.source import HeadKind, find_weights
from slimclr.external_weights import read_tensor_names
from slimclr.files import atomic_path

COLUMNS = ["name", "width", "rank", "class", "class_name", "probability"]


def predict(
    source: str | Path,
    photos: Path,
    *,
    out: Path | None = None,
    widths: Sequence[float] | None = None,
    head: HeadKind | None = None,
    classifier: Path | None = None,
    top: int = 5,
    names: Path | None = None,
    results: Path = Path("results"),
    running: Running = USUAL,
) -> None:
    """Write the most probable classes of every photo that can be read, as CSV, in order.

    Args:
        source: A run, weights or an exported folder, see `open_networks`.
        photos: A file, a folder, a list or a data set, see `open_photos`.
        out: A `.csv` or `.parquet`; None: CSV on stdout.
        widths: Which; None: all there are.
        head: "own" or "probe"; None: the weights' own where they hold one, else the probe's.
        classifier: The probe's classifier.safetensors, where it is not in `results`.
        top: How many classes of each photo and width; all where there are fewer.
        names: File of class names, see `class_names`.
        results: Folder with pretrain/ and probe/.
        running: Batches, workers, device, what happens to photos that cannot be read.

    Raises:
        UserError: No such weights, width, classifier or photos.
    """
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {out}: its suffix says the format; give .csv or .parquet")
    networks = _networks(source, widths=widths, head=head, classifier=classifier, results=results)
    called = class_names(networks.classes, names)
    rows: Iterator[list[str | float | int]] = (
        [photo, width, rank, networks.classes[number], called[number], round(share, 6)]
        for keys, logits in passes(photos, networks, lambda network, images: network(images), running, name="predict")
        for place, photo in enumerate(keys)
        for width, of_width in logits.items()
        for rank, (number, share) in enumerate(_most_probable(of_width[place], top), 1)
    )
    if out is not None and out.suffix == ".parquet":
        import pandas as pd

        with atomic_path(out) as part:
            pd.DataFrame(rows, columns=COLUMNS).to_parquet(part, index=False)
        return
    with _csv_file(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _networks(
    source: str | Path,
    *,
    widths: Sequence[float] | None,
    head: HeadKind | None,
    classifier: Path | None,
    results: Path,
) -> Networks:
    """Networks with a classifier."""
    if head is None:
        head = "probe"
        if is_exported(source) or _holds_classifier(find_weights(source, results=results)):
            head = "own"
    return open_networks(source, widths=widths, head=head, classifier=classifier, results=results)


def _holds_classifier(weights: Path) -> bool:
    """Whether a weights file looks as if it held one: a projection head's layers have other names."""
    names = {name for name in read_tensor_names(weights) if name.startswith("head.")}
    return names == {"head.weight", "head.bias"} or any(name.startswith("head.linears.") for name in names)


def _most_probable(logits: Tensor, top: int) -> list[tuple[int, float]]:
    """(class, probability) from the most probable down."""
    shares = logits.double().softmax(dim=0).topk(min(top, len(logits)))
    return list(zip(shares.indices.tolist(), shares.values.tolist(), strict=True))


@contextmanager
def _csv_file(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    with atomic_path(out) as part, part.open("w", newline="", encoding="utf-8") as file:
        yield file
