"""Checks, as early as possible, that train and val have the same classes."""

from collections.abc import Sequence
from pathlib import Path

from slimclr.data.archives import read_classes, train_sources, val_sources
from slimclr.data.stores import open_images
from slimclr.errors import UserError

_SHOWN = 3


def check_same_classes(train: Path, of_train: Sequence[str], val: Path, of_val: Sequence[str]) -> None:
    """Compare the classes of the two splits: a label is a class's rank, so both need the same.

    Args:
        train: What the training images come from.
        of_train: Their classes in the order of the labels.
        val: What the validation images come from.
        of_val: Their classes in the order of the labels.

    Raises:
        UserError: They differ.
    """
    one, other = set(of_train), set(of_val)
    if one != other:
        raise UserError(
            f"{val}: its classes differ from those of {train} ({len(other):,} classes and {len(one):,}; "
            f"only in val {_some(other - one)}; only in train {_some(one - other)}); name the classes of "
            "both by WordNet id, and make the wrong one again"
        )
    if list(of_train) != list(of_val):
        raise UserError(f"{val}: its labels count the classes in another order than those of {train}; make it again")


def check_data_sets(train: Path, val: Path) -> None:
    """Compare the classes of two data sets, where `val` is there.

    Args:
        train: The training images.
        val: The validation images.

    Raises:
        UserError: The classes differ, or a data set cannot be read.
    """
    if val.exists():
        check_same_classes(train, open_images(train).classes, val, open_images(val).classes)


def check_other_split(split: str, archive: Path, devkit: Path | None, other: Path) -> None:
    """Compare the classes of an archive that is about to be unpacked with those of the other split's.

    Only headers and lists are read. What is missing or damaged is left to the extraction that needs it.

    Args:
        split: train or val.
        archive: Its archive or folder.
        devkit: What names the classes of a val archive.
        other: Archive or folder of the other split.

    Raises:
        UserError: The classes differ.
    """
    train, val = (archive, other) if split == "train" else (other, archive)
    try:
        of_train = [source.wnid for source in train_sources(train).sources]
        if val.is_dir():
            named_by, of_val = val, [source.wnid for source in val_sources(val, devkit, expect="subset").sources]
        elif val.exists() and devkit is not None:
            named_by, of_val = devkit, list(read_classes(devkit).values())
        else:
            return
    except (UserError, OSError):
        return
    check_same_classes(train, sorted(set(of_train)), named_by, sorted(set(of_val)))


def _some(names: set[str]) -> str:
    """The first few names."""
    if not names:
        return "none"
    return ", ".join(sorted(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
