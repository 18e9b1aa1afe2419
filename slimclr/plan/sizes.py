"""How much data a config has, and how much disk its jobs take."""

import inspect
from pathlib import Path

from slimclr.config import RELEASED, Config, Recipe
from slimclr.plan.jobs import Job
from slimclr.plan.rates import DataSet

# The official archives' sizes in bytes: 137.7 and 6.3 GiB, what README.md and image-net.org call 138 and 6.3 GB.
ARCHIVE_BYTES = {"train": 147_897_477_120, "val": 6_744_924_160}
# COCO 2017 (arXiv 1405.0312): photos of train2017 that have an instance, which are those that training sees, and of
# val2017.
COCO = {"coco_train_images": 117_266, "coco_val_images": 5_000}
# CIFAR-10 (Krizhevsky 2009); a photo of 32 pixels a side is at most its 3072 values and PNG's frame.
CIFAR_IMAGES, CIFAR_PNG_BYTES = {"train": 50_000, "val": 10_000}, 3_200
# A file takes whole blocks of 4096 bytes; in an LMDB an image takes half a page as well, and its entries.
_BESIDE = {"folder": 2_048, "lmdb": 2_200}
# Checkpoints: the newest two, and the one that is being written.
_CHECKPOINTS = 3


def data_set(config: Config) -> DataSet:
    """What follows from the config and the archives that are there; of a subset the counts have to be stated."""
    from slimclr.data.archives import ILSVRC2012_TRAIN_IMAGES, ILSVRC2012_VAL_IMAGES
    from slimclr.miniature.write import write_miniature

    if config.cifar10:
        counts = {f"{split}_images": count for split, count in CIFAR_IMAGES.items()}
        sizes = {f"{split}_mb": count * CIFAR_PNG_BYTES / 1e6 for split, count in CIFAR_IMAGES.items()}
        return DataSet(**counts, **sizes)
    if config.miniature:
        # What the generator draws when it is not told otherwise.
        drawn = {name: one.default for name, one in inspect.signature(write_miniature).parameters.items()}
        counts = {f"{split}_images": drawn["classes"] * drawn[f"{split}_per_class"] for split in ("train", "val")}
        return DataSet(**counts, **{f"{name}_images": drawn[name] for name in ("coco_train", "coco_val")})
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
    return DataSet(train_images=ILSVRC2012_TRAIN_IMAGES, val_images=ILSVRC2012_VAL_IMAGES, **sizes, **COCO)


def classes_of(config: Config) -> int:
    """Classes of a config's data, as far as it is known before the data are there."""
    return 10 if config.cifar10 else 8 if config.miniature else 1000


def disk_gb(job: Job, config: Config, recipe: Recipe | None, data: DataSet, checkpoint: float | None) -> float | None:
    """GB that a job leaves on the disk, with as many of its checkpoints (GB) as there are at most; None: not known."""
    if job.rule in ("report", "measure_latency", "absent_checkpoints"):
        return 0.01
    if job.rule == "export_width":
        return 0.1
    if recipe is not None and job.rule == "quick_probe":
        images = None if data.train_images is None or data.val_images is None else data.train_images + data.val_images
        # What network a checkpoint holds is known when it is imported.
        features = sum(recipe.pretrain.backbone.features.values()) if recipe.pretrain else None
        return None if images is None or features is None else images * 4 * features / 1e9
    if recipe is not None:
        kept = _CHECKPOINTS
        if job.rule == "import_checkpoint":
            assert recipe.checkpoint is not None
            # The weights are a part of what the file holds.
            file = Path(config.paths.raw) / RELEASED / recipe.checkpoint.file
            return file.stat().st_size / 1e9 if file.is_file() else None
        if job.rule == "pretrain" and recipe.pretrain and recipe.pretrain.keep_every_epochs:
            kept += recipe.pretrain.epochs // recipe.pretrain.keep_every_epochs
        if job.rule != "transfer" and not getattr(recipe, job.rule).epochs:
            kept = 1 if job.rule == "pretrain" else 0  # a random backbone is its weights
        return 0.0 if not kept else checkpoint and kept * checkpoint
    if job.rule in ("miniature", "cifar"):
        parts = [split_disk(data, split, "lmdb") for split in ("train", "val")]
        return None if None in parts else sum(part or 0.0 for part in parts)
    straight = job.rule.startswith("convert") or not config.imagenet.keep_folder
    split = job.wildcards.get("split") or job.rule.removeprefix("extract_")
    return split_disk(data, split, "lmdb" if straight else "folder")


def split_disk(data: DataSet, split: str, kind: str) -> float | None:
    """GB of one split as `folder` or `lmdb`; None where the size of the data is not known."""
    images, size = getattr(data, f"{split}_images", None), getattr(data, f"{split}_mb", None)
    return None if images is None or size is None else size / 1e3 + images * _BESIDE[kind] / 1e9
