"""The classes of the validation images, in whichever form they are there."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimclr.data.archives.devkit import read_classes
from slimclr.data.archives.entries import (
    Entry,
    class_folders,
    entries,
    list_files,
    members_of,
    split_folder,
)
from slimclr.data.archives.official import ILSVRC2012_VAL_IMAGES
from slimclr.data.archives.sources import Folder, Listing
from slimclr.errors import UserError


def val_sources(archive: Path, classes: Path | None, *, expect: str) -> Listing:
    """The classes of the validation images.

    Args:
        archive: The flat `ILSVRC2012_img_val.tar`, Kaggle's archive, a folder of either's images, or a folder of one
            folder per class.
        classes: Where the images' classes are, as for `read_classes`; a folder of class folders needs none.
        expect: "ilsvrc2012" asks for 50,000 images, "subset" for as many as `classes` names.

    Raises:
        UserError: Something is missing, damaged or unsafe to unpack, or images and classes do not fit.
    """
    root = split_folder(archive, "val")
    flat = None
    if archive.is_dir():
        sources, hidden = class_folders(root)
        flat = list_files(root)
        if sources:
            return Listing(sources, hidden + flat.hidden)
        if not flat.files:
            inside = f"give {root / 'val'}" if (root / "val").is_dir() else "sort them into <wnid>/"
            raise UserError(f"{root}: no class folders with images; {inside}, or give the official archive")
    if classes is None:
        raise UserError(
            f"{archive}: the classes of its images are missing; give the devkit, Kaggle's LOC_val_solution.csv, or a "
            "text file of lines 'name wnid'"
        )
    wanted = read_classes(classes)
    if expect == "ilsvrc2012" and len(wanted) != ILSVRC2012_VAL_IMAGES:
        raise UserError(
            f"{classes}: ground truth of {len(wanted):,} images instead of {ILSVRC2012_VAL_IMAGES:,}; download it "
            "again, or set expect to 'subset' if it is one on purpose"
        )
    if flat is None:
        found, hidden = _match(archive, entries(archive, "val"), wanted, classes)
        return Listing(members_of(archive, _by_class(found, wanted)), hidden)
    listed = (Entry(member[0], member[0], member) for member in flat.files)
    found, _ = _match(archive, listed, wanted, classes)
    by_class = _by_class(found, wanted)
    return Listing([Folder(wnid, root, tuple(members)) for wnid, members in by_class.items()], flat.hidden)


def _match(
    archive: Path, listed: Iterable[Entry], wanted: dict[str, str], classes: Path
) -> tuple[dict[str, tuple[Any, ...]], int]:
    """The images by name, each of them once, and the number of hidden entries.

    Names only: what is wrong with the archive as a whole is said before anything is written.
    """
    found: dict[str, tuple[Any, ...]] = {}
    hidden = 0
    for entry in listed:
        if not entry.path:
            hidden += 1
            continue
        if entry.name not in wanted:
            raise UserError(
                f"{archive}: member {entry.told!r} is not among the {len(wanted):,} images of the ground truth "
                f"in {classes}; give archives that belong together"
            )
        if entry.name in found:
            raise UserError(f"{archive}: member {entry.told!r} comes twice; download the archive again")
        found[entry.name] = entry.member
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise UserError(
            f"{archive}: {missing} is missing ({len(found):,} images, the ground truth in {classes} has "
            f"{len(wanted):,}); download the archive again"
        )
    return found, hidden


def _by_class(found: dict[str, tuple[Any, ...]], wanted: dict[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    members: dict[str, list[tuple[Any, ...]]] = {wnid: [] for wnid in sorted({wanted[name] for name in found})}
    for name, member in found.items():
        members[wanted[name]].append(member)
    return members
