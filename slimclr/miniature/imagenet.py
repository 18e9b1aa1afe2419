"""Archives as ImageNet's, with generated photos."""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from slimclr.files import atomic_path
from slimclr.miniature.photos import TRAIN_STREAM, VAL_STREAM, draw_texture, jpeg

# Tar members carry this time (6 June 2012, as the official archives do), so that the bytes depend on the seed alone.
ARCHIVE_TIME = 1338999999


def _classified_photo(seeds: list[int], texture: str) -> bytes:
    rng = np.random.default_rng(seeds)
    width, height = (int(side) for side in rng.integers(72, 97, 2))
    return jpeg(draw_texture(rng, width, height, texture))


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar whose bytes depend on names and contents alone."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), ARCHIVE_TIME
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_train(path: Path, seed: int, names: list[str], wnids: list[str], per_class: int) -> None:
    """The training archive: a tar of one tar per class."""
    inner = []
    for rank, (name, wnid) in enumerate(zip(names, wnids, strict=True)):
        photos = (
            (f"{wnid}_{n}.JPEG", _classified_photo([seed, TRAIN_STREAM, rank, n], name)) for n in range(per_class)
        )
        inner.append((f"{wnid}.tar", _tar(photos)))
    write_bytes(path, _tar(inner))


def write_val(path: Path, seed: int, names: list[str], ranks: np.ndarray) -> None:
    """The validation archive, flat."""
    photos = (
        (f"ILSVRC2012_val_{n:08d}.JPEG", _classified_photo([seed, VAL_STREAM, n], names[rank]))
        for n, rank in enumerate(ranks, 1)
    )
    write_bytes(path, _tar(photos))


def write_devkit(
    path: Path, names: list[str], wnids: list[str], ids: np.ndarray, truth: np.ndarray, train_per_class: int
) -> None:
    """The devkit: `ids` are the classes' ILSVRC ids, `truth` those of the validation photos."""
    import scipy.io

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    none = np.zeros((1, 0))
    leaves = [
        (
            float(ids[rank]),
            wnids[rank],
            names[rank],
            f"photos of {names[rank]}",
            0.0,
            none,
            0.0,
            train_per_class,
        )
        for rank in np.argsort(ids)
    ]
    children = np.arange(1.0, len(names) + 1)[None]
    root = (len(names) + 1.0, "n00001740", "entity", "an inner node", float(len(names)), children, 1.0, 0)
    synsets = np.empty((len(names) + 1, 1), dtype=[(field, object) for field in (*fields, "num_train_images")])
    for row, values in enumerate([*leaves, root]):
        synsets[row, 0] = values
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": synsets})
    # The first 116 bytes are a free text, in which scipy puts the time of day.
    meta = b"MATLAB 5.0 MAT-file, SlimCLR miniature".ljust(116) + file.getvalue()[116:]
    lines = "".join(f"{number}\n" for number in truth).encode()
    folder = "ILSVRC2012_devkit_t12/data"
    archive = _tar([(f"{folder}/meta.mat", meta), (f"{folder}/ILSVRC2012_validation_ground_truth.txt", lines)])
    write_bytes(path, gzip.compress(archive, mtime=0))
