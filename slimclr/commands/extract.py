"""`slimclr extract`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "Unpack an ImageNet archive into folders of classes, with a manifest."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("--split", choices=("train", "val"), required=True)
    parser.add_argument(
        "--archive",
        type=Path,
        required=True,
        help="ILSVRC2012_img_train.tar or _val.tar, a folder of <wnid>/<image>, or Kaggle's zip or folder; only read",
    )
    parser.add_argument(
        "--devkit",
        type=Path,
        help="for val: ILSVRC2012_devkit_t12.tar.gz, Kaggle's LOC_val_solution.csv or zip, or a text file (.txt) of "
        "lines 'name wnid'",
    )
    parser.add_argument(
        "--other", type=Path, help="the other split's archive or folder; where it is there, its classes are compared"
    )
    parser.add_argument("--expect", choices=("ilsvrc2012", "subset"), required=True, help="counts to insist on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the split, for images, manifest and report")
    parser.add_argument(
        "--lmdb", type=Path, metavar="FILE", help="write the images into this LMDB instead of the folder"
    )
    parser.add_argument(
        "--check-images",
        choices=("structure", "decode"),
        default="structure",
        help="look at header, markers and end of every image (default), or decode it",
    )
    parser.add_argument(
        "--on-corrupt", choices=("stop", "skip"), default="stop", help="stop with a list (default), or leave them out"
    )
    parser.add_argument("--check-md5", action="store_true", help="compare with the MD5 that ImageNet published")
    parser.add_argument("--md5", metavar="HEX", help="compare the archive with this MD5")
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per available core, at most 8)")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Run the command."""
    from slimclr.stages.data import extract

    extract(
        options.split,
        archive=options.archive,
        devkit=options.devkit,
        expect=options.expect,
        out=options.out,
        lmdb=options.lmdb,
        check_images=options.check_images,
        on_corrupt=options.on_corrupt,
        official_md5=options.check_md5,
        md5=options.md5,
        jobs=options.jobs,
        other=options.other,
    )
