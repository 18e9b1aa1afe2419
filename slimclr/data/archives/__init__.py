"""An index of ImageNet's archives: the images of each class and their offsets, without unpacking anything.

Known are the official tars, Kaggle's zip, and folders to which these were unpacked. Each class is a source of images: a
tar inside the outer one, scattered members of a flat archive, or files of a folder. Sources can be pickled: a worker
process opens the file itself.
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
