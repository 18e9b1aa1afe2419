"""What ImageNet's archives hold and where in them it lies, without unpacking anything.

The official tars, Kaggle's zip, and folders into which somebody unpacked them already. Each class is a source of
images: a tar inside the outer one, scattered members of a flat archive, or files of a folder. A source can be sent to
another process, which opens the file for itself.
"""

from slimclr.data.archives.devkit import read_classes, read_ground_truth
from slimclr.data.archives.official import (
    EXPECTATIONS,
    ILSVRC2012_CLASSES,
    ILSVRC2012_TRAIN_IMAGES,
    ILSVRC2012_VAL_IMAGES,
    MD5,
    check_md5,
    reading_through,
)
from slimclr.data.archives.sources import Listing, Source
from slimclr.data.archives.train import train_sources
from slimclr.data.archives.val import val_sources

__all__ = [
    "EXPECTATIONS",
    "ILSVRC2012_CLASSES",
    "ILSVRC2012_TRAIN_IMAGES",
    "ILSVRC2012_VAL_IMAGES",
    "MD5",
    "Listing",
    "Source",
    "check_md5",
    "read_classes",
    "read_ground_truth",
    "reading_through",
    "train_sources",
    "val_sources",
]
