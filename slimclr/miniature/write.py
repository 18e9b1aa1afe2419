"""Both data sets in one folder."""

from pathlib import Path

import numpy as np

from slimclr.miniature.coco import write_coco
from slimclr.miniature.imagenet import write_devkit, write_train, write_val
from slimclr.miniature.photos import COCO_TRAIN_STREAM, COCO_VAL_STREAM, ORDER_STREAM
from slimclr.miniature.shapes import SHAPES, TEXTURES


def write_miniature(
    out: Path,
    *,
    seed: int = 0,
    classes: int = 8,
    train_per_class: int = 150,
    val_per_class: int = 40,
    coco_train: int = 160,
    coco_val: int = 40,
) -> None:
    """Write both data sets; the same arguments give the same bytes.

    Args:
        out: Folder for the three ImageNet archives and `coco/`.
        seed: Seed of all random numbers.
        classes: Number of classes, 2 to 8.
        train_per_class: Training photos per class, 72 to 96 pixels a side.
        val_per_class: Validation photos per class.
        coco_train: Training photos of COCO, 96 to 160 pixels a side.
        coco_val: Validation photos of COCO.

    Raises:
        ValueError: More classes than textures.
    """
    if not 2 <= classes <= len(TEXTURES):
        raise ValueError(f"classes is {classes}; the miniature has 2 to {len(TEXTURES)}")
    out = Path(out)
    names = list(TEXTURES)[:classes]
    wnids = [f"n{90000000 + 137 * rank:08d}" for rank in range(classes)]
    write_train(out / "ILSVRC2012_img_train.tar", seed, names, wnids, train_per_class)
    order = np.random.default_rng([seed, ORDER_STREAM])
    # As in the official devkit, the ILSVRC ids 1, 2, ... do not follow the order of the WordNet ids.
    ids = np.roll(np.arange(1, classes + 1), classes // 2)[::-1]
    ranks = order.permutation(np.repeat(np.arange(classes), val_per_class))
    write_val(out / "ILSVRC2012_img_val.tar", seed, names, ranks)
    write_devkit(out / "ILSVRC2012_devkit_t12.tar.gz", names, wnids, ids, ids[ranks], train_per_class)
    write_coco(out / "coco", "train2017", [seed, COCO_TRAIN_STREAM], list(SHAPES)[:classes], coco_train, first_id=1)
    write_coco(
        out / "coco", "val2017", [seed, COCO_VAL_STREAM], list(SHAPES)[:classes], coco_val, first_id=coco_train + 1
    )
