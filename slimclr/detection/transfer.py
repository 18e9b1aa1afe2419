"""Fine-tune a slimmable backbone on COCO and evaluate every width."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import distributed

from slimclr.detection import backbone, detector  # noqa: F401 - puts both into mmdet's registry
from slimclr.detection.check import annotation_file, check_coco
from slimclr.detection.recipe import build_config
from slimclr.engine.distributed import leave
from slimclr.errors import UserError
from slimclr.files import write_json
from slimclr.nn.weights import load_backbone

# Name in metrics.json -> name in mmdet's CocoMetric.
METRICS = {
    f"{ours}_{name}": f"coco/{theirs}_{item}"
    for ours, theirs in (("box", "bbox"), ("mask", "segm"))
    for name, item in (("ap", "mAP"), ("ap50", "mAP_50"), ("ap75", "mAP_75"))
}
# Beside the checkpoints: COCO's photos were found whole.
CHECKED = "coco_checked.json"


def run_transfer(
    *,
    weights: Path,
    coco: Path,
    inputs: Mapping[str, str],
    checkpoints: Path,
    workers: int,
    log_interval: int = 50,
    **recipe: Any,
) -> dict[str, dict[str, float]] | None:
    """Train Mask R-CNN on train2017 with every width of a backbone, then measure each width on val2017.

    Under torchrun every process calls this. A killed run continues from its newest whole checkpoint (one per epoch).

    Args:
        weights: The pre-trained backbone.
        coco: Folder with `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`; any data of COCO's
            shape.
        inputs: SHA-256 of the weights and of what is read of COCO, by name.
        checkpoints: Folder for checkpoints, mmengine's logs and its `vis_data/scalars.json`.
        workers: Loader processes of each process.
        log_interval: Steps between two log lines.
        recipe: The other arguments of `slimclr.detection.recipe.build_config` and `model_config`.

    Returns:
        By width, for instance `{"1.0": {"box_ap": ..., ...}}`, average precision times 100; None on all processes but
        the first.

    Raises:
        UserError: Weights or parts of COCO are missing or unusable, there is nothing to learn from, the batch cannot
            be shared by the processes, or the checkpoints were made with another recipe or of other data.
    """
    network, _ = load_backbone(weights)
    classes = check_coco(coco, checkpoints / CHECKED)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    config = build_config(
        weights=weights,
        stage_channels=network.stage_channels,
        coco=coco,
        classes=classes,
        checkpoints=checkpoints,
        resume_from=newest_checkpoint(checkpoints),
        workers=workers,
        processes=processes,
        log_interval=log_interval,
        **recipe,
    )
    # mmengine itself would start a distributed run only on GPUs.
    if processes > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        check_recipe(checkpoints / "recipe.json", {**inputs, "classes": classes, **recipe})
        return _train(config, coco)
    finally:
        if processes > 1:
            leave()


def _train(config: Config, coco: Path) -> dict[str, dict[str, float]] | None:
    runner = Runner.from_cfg(config)
    runner.train()
    widths = evaluate(runner, annotations=annotation_file(coco, "val"))
    return widths if runner.rank == 0 else None


def evaluate(runner: Runner, *, annotations: Path) -> dict[str, dict[str, float]]:
    """COCO's average precision of every width, in one pass over the images.

    Args:
        runner: Holds the trained detector and the configuration with `eval_dataloader`.
        annotations: The annotation file of these images.

    Returns:
        The values of `METRICS`, times 100, by width.
    """
    model = getattr(runner.model, "module", runner.model)
    loader = runner.build_dataloader(runner.cfg.eval_dataloader, seed=runner.seed)
    evaluators = {}
    for width in model.widths:
        metric = CocoMetric(ann_file=str(annotations), metric=["bbox", "segm"])
        # Where processes meet to put their results together; mmengine would take the current folder.
        metric.collect_dir = str(Path(runner.work_dir) / f"results_{width}")
        evaluators[width] = Evaluator(metric)
        evaluators[width].dataset_meta = loader.dataset.metainfo
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(loader):
            for width, evaluator in evaluators.items():
                evaluator.process(data_samples=model.predict_step(batch, width), data_batch=batch)
            if (step + 1) % 500 == 0:
                runner.logger.info(f"evaluated {step + 1} of {len(loader)} batches at {len(evaluators)} widths")
    widths = {}
    for width, evaluator in evaluators.items():
        values = evaluator.evaluate(len(loader.dataset))
        # Without a single detection mmdet leaves the names out; COCO's -1 means undefined. Both count as nothing found.
        widths[str(width)] = {
            ours: round(100 * max(values.get(theirs, 0.0), 0.0), 1) for ours, theirs in METRICS.items()
        }
    return widths


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest epoch that is whole; a kill may have cut the last one short.

    mmengine's own note `last_checkpoint` is not used: it holds an absolute path and may be cut short too.
    """
    found = sorted(folder.glob("epoch_*.pth"), key=lambda path: int(path.stem.removeprefix("epoch_")), reverse=True)
    return next((path for path in found if zipfile.is_zipfile(path)), None)


def check_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """Remember recipe and inputs beside the checkpoints, so that none continues with others.

    Raises:
        UserError: Checkpoints of another recipe or other data are there.
    """
    now = json.loads(json.dumps(recipe))
    before = json.loads(path.read_text()) if path.is_file() else now
    if newest_checkpoint(path.parent) is not None and before != now:
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        raise UserError(
            f"{path.parent}: holds checkpoints of another recipe or other data ({', '.join(changed)} changed); delete "
            "this folder to start anew, or take the change back"
        )
    # Only one process writes; the others have read before it may matter.
    if int(os.environ.get("RANK", "0")) == 0:
        write_json(path, now)
