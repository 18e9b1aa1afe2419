"""The classes of the training images, in whichever form they are there."""

import os
from pathlib import Path
from typing import Any

from slimclr.data.archives.entries import (
    class_folders,
    entries,
    list_files,
    members_of,
    split_folder,
    stamp,
)
from slimclr.data.archives.kinds import COMPRESSED, is_zip, kind_of, other_kind
from slimclr.data.archives.sources import CompressedTar, InnerTar, Listing, Source
from slimclr.errors import UserError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_FORMS = "a tar of one <wnid>.tar per class, a folder, tar or zip of <wnid>/<image>, or Kaggle's zip"


def train_sources(archive: Path) -> Listing:
    """The classes of the training images, in the archive's order.

    Args:
        archive: The official `ILSVRC2012_img_train.tar`, a tar of one `<wnid>.tar` per class; a folder of these; a
            folder, tar or zip of `<wnid>/<image>`; or Kaggle's archive, which is one of the last. Of archives only
            headers are read.

    Raises:
        UserError: It is missing, cut short, unsafe to unpack or something else.
    """
    if archive.is_dir():
        return _folder(split_folder(archive, "train"))
    tars: dict[str, Source] = {}
    images: dict[str, list[tuple[Any, ...]]] = {}
    parents: set[str] = set()
    hidden, zipped = 0, is_zip(archive)
    for entry in entries(archive, "train"):
        if not entry.path:
            hidden += 1
            continue
        folder, _, name = entry.path.rpartition("/")
        if wnid := _class_of_tar(name):
            if zipped:
                raise UserError(f"{archive}: holds the archive {entry.told!r}; unpack the zip and give the folder")
            if wnid in tars:
                raise UserError(f"{archive}: class {wnid} comes twice; keep one {wnid}.tar in the archive")
            tars[wnid] = _class_tar(archive, wnid, *entry.member[1:])
            continue
        if not folder:
            raise UserError(
                f"{archive}: member {entry.told!r} is not a class archive <wnid>.tar; give the official "
                f"ILSVRC2012_img_train.tar, or another of: {_FORMS}"
            )
        parent, _, wnid = folder.rpartition("/")
        parents.add(parent)
        images.setdefault(wnid, []).append(entry.member)
    if tars and images:
        raise UserError(f"{archive}: holds both class archives and images; keep one of the two in it")
    if len(parents) > 1:
        first, second, *_ = (parent or "." for parent in sorted(parents))
        raise UserError(
            f"{archive}: holds class folders in {first!r} and in {second!r}; give an archive, or the unpacked folder, "
            "of the training images alone"
        )
    if not tars and not images:
        raise UserError(f"{archive}: holds no class archive and no class folder; give {_FORMS}")
    return Listing(list(tars.values()) or members_of(archive, images), hidden)


def _folder(root: Path) -> Listing:
    """The classes of a folder of class folders or class archives."""
    sources, hidden = class_folders(root)
    beside = list_files(root)
    classes = {source.wnid for source in sources}
    for name, size, _ in beside.files:
        if wnid := _class_of_tar(name):
            if wnid in classes:
                raise UserError(f"{root}: class {wnid} comes twice, as {name} too; remove the one that is not whole")
            classes.add(wnid)
            sources.append(_class_tar(root / name, wnid, 0, size))
    if not sources:
        inside = root / "train"
        remedy = f"give {inside}" if inside.is_dir() else f"give {_FORMS}"
        raise UserError(f"{root}: no class folders with images, and no class archives <wnid>.tar; {remedy}")
    return Listing(sources, hidden + beside.hidden)


def _class_of_tar(name: str) -> str:
    """The class of a class archive; empty for another file."""
    wnid, dot, suffix = name.partition(".")
    return wnid if dot + suffix in _TAR else ""


def _class_tar(archive: Path, wnid: str, offset: int, size: int) -> Source:
    where = f"{archive}: {wnid}.tar"
    descriptor = os.open(archive, os.O_RDONLY)
    try:
        head = os.pread(descriptor, min(512, size), offset)
    finally:
        os.close(descriptor)
    kind = kind_of(head)
    if kind in COMPRESSED:
        return CompressedTar(wnid, archive, stamp(archive), offset, size)
    if kind:
        raise UserError(f"{where}: {other_kind(head, wnid + '.tar')}")
    return InnerTar(wnid, archive, stamp(archive), offset, size)
