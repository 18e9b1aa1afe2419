"""COCO's average precision of every width of a detector."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from slimclr.detection.detector import SlimmableMaskRCNN
from slimclr.detection.kept_files import with_tuples
from slimclr.workers import iterate

# Kind -> its name in metrics.json, and what of it -> its name in mmdet's CocoMetric.
_KINDS = {"bbox": "box", "segm": "mask"}
_ITEMS = {
    "ap": "mAP",
    "ap50": "mAP_50",
    "ap75": "mAP_75",
    "ap_small": "mAP_s",
    "ap_medium": "mAP_m",
    "ap_large": "mAP_l",
}


def metrics_of(model: SlimmableMaskRCNN) -> dict[str, str]:
    """Name in metrics.json -> name in mmdet's CocoMetric; without a mask head boxes alone."""
    return {
        f"{_KINDS[kind]}_{ours}": f"coco/{kind}_{theirs}" for kind in _kinds(model) for ours, theirs in _ITEMS.items()
    }


def _kinds(model: SlimmableMaskRCNN) -> list[str]:
    return [kind for kind in _KINDS if kind == "bbox" or model.with_mask]


def validation_loader(config: ConfigDict, coco: Path, *, workers: int) -> DataLoader:
    """The loader of a kept detector's validation photos.

    Args:
        config: The detector's configuration.
        coco: Folder with `annotations/instances_val2017.json` and `val2017/`.
        workers: Loader processes.
    """
    settings = copy.deepcopy(config.eval_dataloader)
    settings |= {"num_workers": workers, "persistent_workers": workers > 0}
    settings.dataset.data_root = str(coco)
    settings.dataset.pipeline = with_tuples(settings.dataset.pipeline)
    init_default_scope(config.default_scope)
    return Runner.build_dataloader(settings, seed=0)


def measure(
    model: SlimmableMaskRCNN,
    loader: DataLoader,
    *,
    annotations: Path,
    widths: Sequence[float] | None = None,
    after_batch: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, float | None]]:
    """Average precision of every width, in one pass over the images; every process has its share of them.

    Args:
        model: The detector; it is in eval mode afterwards.
        loader: Its batches are those of the recipe's `eval_dataloader`.
        annotations: The annotation file of these images.
        widths: Widths; None: all.
        after_batch: Called with the number of batches done.

    Returns:
        By width, for instance `{"1.0": {"box_ap": 38.0, ...}}`, the keys of `metrics_of`: average precision times 100;
        None where it is undefined, as there is no object of that size.
    """
    images: Any = loader.dataset
    evaluators = {}
    for width in widths or model.widths:
        # Processes send their results to one another, also without a GPU; by "cpu" pickles in a folder are meant.
        metric = CocoMetric(ann_file=str(annotations), metric=_kinds(model), collect_device="gpu")
        evaluators[width] = Evaluator(metric)
        evaluators[width].dataset_meta = images.metainfo
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(iterate(loader), 1):
            for width, evaluator in evaluators.items():
                evaluator.process(data_samples=model.predict_step(batch, width), data_batch=batch)
            after_batch(step)
    found = {width: evaluator.evaluate(len(images)) for width, evaluator in evaluators.items()}
    # COCO's -1. A width without a single detection has no names at all, and has found nothing.
    undefined = {name for values in found.values() for name, value in values.items() if value < 0}
    return {
        str(width): {
            ours: None if theirs in undefined else round(100 * values.get(theirs, 0.0), 1)
            for ours, theirs in metrics_of(model).items()
        }
        for width, values in found.items()
    }
