"""`data_report.json`: what is in a split."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimclr.data.archives.records import Records
from slimclr.data.manifest import Record
from slimclr.files import write_json

_LISTED = 1000


def write_report(records: Records, path: Path) -> str:
    """Write what is odd about a data set's images.

    Args:
        records: What an extraction returned.
        path: JSON file: counts, and for each oddity its count and the files (all corrupt ones, else the first 1000).

    Returns:
        The counts in one line.
    """
    from PIL import Image

    formats = Image.registered_extensions()
    odd: dict[str, list[Any]] = {name: [] for name in ("cmyk", "grey", "format_mismatch", "exif_rotation")}
    counts = dict.fromkeys(odd, 0)
    corrupt: list[dict[str, str]] = []
    prefixes = bytearray()
    total = classes = 0
    hidden = records.hidden

    def note(name: str, entry: Any) -> None:
        counts[name] += 1
        if len(odd[name]) < _LISTED:
            odd[name].append(entry)

    for record in records.classes():
        classes += bool(record.images)
        hidden += record.hidden
        corrupt += [{"key": key, "reason": reason} for key, reason in record.corrupt]
        for image in record.images:
            total += image.bytes
            prefixes += bytes.fromhex(image.sha1[:16])
            if image.mode == "CMYK":
                note("cmyk", image.key)
            if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
                note("grey", image.key)
            if formats.get(os.path.splitext(image.name)[1].lower()) != image.format:
                note("format_mismatch", {"key": image.key, "format": image.format})
            if image.orientation != 1:
                note("exif_rotation", {"key": image.key, "orientation": image.orientation})
    duplicates = _duplicates(records, np.frombuffer(prefixes, np.uint64))
    images = len(prefixes) // 8
    document = {
        "schema": 1,
        "images": images,
        "classes": classes,
        "bytes": total,
        "hidden": hidden,
        "corrupt": {"count": len(corrupt), "files": corrupt},
        **{name: {"count": counts[name], "files": odd[name]} for name in odd},
        "duplicates": {"count": sum(len(keys) - 1 for keys in duplicates), "files": duplicates[:_LISTED]},
    }
    write_json(path, document)
    return (
        f"{images:,} images in {classes:,} classes, {total / 1e6:,.1f} MB; left out as corrupt {len(corrupt):,}; CMYK "
        f"{counts['cmyk']:,}, grey {counts['grey']:,}, format other than the name says {counts['format_mismatch']:,}, "
        f"rotated by EXIF {counts['exif_rotation']:,}, duplicates {sum(len(keys) - 1 for keys in duplicates):,}, "
        f"hidden entries passed over {hidden:,}"
    )


def _duplicates(records: Iterable[Record], prefixes: np.ndarray) -> Sequence[list[str]]:
    """Groups of keys with the same content; full sums are only held of those whose first eight bytes are shared."""
    values, occurrences = np.unique(prefixes, return_counts=True)
    shared = set(values[occurrences > 1].tolist())
    if not shared:
        return []
    groups: dict[str, list[str]] = {}
    for image, prefix in zip(records, prefixes.tolist(), strict=True):
        if prefix in shared:
            groups.setdefault(image.sha1, []).append(image.key)
    return [keys for keys in groups.values() if len(keys) > 1]
