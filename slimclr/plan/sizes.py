"""How much data a config has, and how much disk its jobs take."""

import inspect
from pathlib import Path
from typing import Any

from slimclr.config import Config, Pretrain, Probe
from slimclr.plan.rates import DataRate, DataSet

# The official archives' sizes in bytes: 137.7 and 6.3 GiB, what README.md and image-net.org call 138 and 6.3 GB.
ARCHIVE_BYTES = {"train": 147_897_477_120, "val": 6_744_924_160}
# COCO 2017 (arXiv 1405.0312): photos of train2017 that have an instance, which are those that training sees, and of
# val2017.
COCO_TRAIN_IMAGES, COCO_VAL_IMAGES = 117_266, 5_000
# CIFAR-10 (Krizhevsky 2009); a photo of 32 pixels a side is at most its 3072 values and PNG's frame.
CIFAR_IMAGES, CIFAR_PNG_BYTES = {"train": 50_000, "val": 10_000}, 3_200
# A file takes whole blocks of 4096 bytes.
_HALF_A_BLOCK = 2048
# Checkpoints: the newest two, and the one that is being written.
_CHECKPOINTS = 3


def data_set(config: Config) -> DataSet:
    """What follows from the config and the archives that are there.

    ImageNet's counts are those that the extraction insists on (`expect: ilsvrc2012`), its bytes the archives' sizes;
    of a subset the archives' sizes alone are known, and counts have to be stated.
    """
    from slimclr.data.archives import ILSVRC2012_TRAIN_IMAGES, ILSVRC2012_VAL_IMAGES

    coco = {"coco_train_images": COCO_TRAIN_IMAGES, "coco_val_images": COCO_VAL_IMAGES}
    if config.cifar10:
        counts = {f"{split}_images": count for split, count in CIFAR_IMAGES.items()}
        sizes = {f"{split}_mb": count * CIFAR_PNG_BYTES / 1e6 for split, count in CIFAR_IMAGES.items()}
        return DataSet(**counts, **sizes)
    if config.miniature:
        return DataSet(**_miniature())
    sizes = {}
    raw, names = Path(config.paths.raw), {"train": config.imagenet.train, "val": config.imagenet.val}
    for split, name in names.items():
        # Kaggle's zip holds both splits.
        if (raw / name).is_file() and (raw / name).suffix != ".zip":
            sizes[f"{split}_mb"] = (raw / name).stat().st_size / 1e6
        elif config.imagenet.expect == "ilsvrc2012":
            sizes[f"{split}_mb"] = ARCHIVE_BYTES[split] / 1e6
    if config.imagenet.expect == "subset":
        return DataSet(**sizes)
    return DataSet(train_images=ILSVRC2012_TRAIN_IMAGES, val_images=ILSVRC2012_VAL_IMAGES, **sizes, **coco)


def _miniature() -> dict[str, int]:
    """What the generator draws when it is not told otherwise."""
    from slimclr.miniature.write import write_miniature

    values = {name: parameter.default for name, parameter in inspect.signature(write_miniature).parameters.items()}
    return {
        "train_images": values["classes"] * values["train_per_class"],
        "val_images": values["classes"] * values["val_per_class"],
        "coco_train_images": values["coco_train"],
        "coco_val_images": values["coco_val"],
    }


def classes_of(config: Config) -> int:
    """Classes of a config's data, as far as it is known before the data are there."""
    if config.cifar10:
        return 10
    return 8 if config.miniature else 1000


def split_disk(data: DataSet, split: str, kind: str, rates: DataRate) -> float | None:
    """GB of one split as `folder`, `lmdb` or `recordio`; None where the size of the data is not known."""
    images, size = getattr(data, f"{split}_images"), getattr(data, f"{split}_mb")
    if images is None or size is None:
        return None
    if kind == "folder":
        return size / 1e3 + images * _HALF_A_BLOCK / 1e9
    if kind == "lmdb":
        return size / 1e3 + images * data.lmdb_bytes_per_image / 1e9
    return size / 1e3 * rates.recordio_share if rates.recordio_share else None


def pretrain_disk(recipe: Pretrain, classes: int) -> float:
    """GB that a pre-training takes at most: rolling checkpoints, those kept for good, and the weights.

    The method is built without memory for its numbers; a momentum is as large as what it moves.
    """
    import torch

    from slimclr.build.method import build_method
    from slimclr.nn import build_backbone

    with torch.device("meta"):
        backbone = build_backbone(**recipe.backbone.model_dump())
        if recipe.method.name == "random":
            return _bytes(backbone.state_dict()) / 1e9
        method = build_method(recipe, backbone, classes=classes)
    moved = sum(p.numel() * p.element_size() for p in method.trainable().parameters())
    checkpoint = _bytes(method.state_dict()) + moved
    kept = recipe.epochs // recipe.keep_every_epochs if recipe.keep_every_epochs else 0
    return ((_CHECKPOINTS + kept) * checkpoint + _bytes(method.exported())) / 1e9


def probe_disk(recipe: Probe, pretrain: Pretrain, classes: int) -> float:
    """GB of a probe's rolling checkpoints, which hold the frozen backbone too."""
    import torch

    from slimclr.nn import build_backbone
    from slimclr.probe import LinearProbe

    if not recipe.epochs:
        return 0.0
    with torch.device("meta"):
        method = LinearProbe(build_backbone(**pretrain.backbone.model_dump()), classes)
    moved = sum(p.numel() * p.element_size() for p in method.trainable().parameters())
    return _CHECKPOINTS * (_bytes(method.state_dict()) + moved) / 1e9


def transfer_disk(checkpoint_gb: float | None) -> float | None:
    """GB of a transfer's checkpoints; mmengine keeps two."""
    return None if checkpoint_gb is None else _CHECKPOINTS * checkpoint_gb


def _bytes(state: dict[str, Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values() if hasattr(tensor, "numel"))
