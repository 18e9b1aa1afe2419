"""Fine-tune a slimmable backbone on COCO and evaluate every width."""

import gc
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast
from mmengine.runner import Runner

from slimclr.arch import BLOCKS, CIFAR_BLOCKS
from slimclr.detection import backbone, detector, loop, optimisation, order  # noqa: F401 - puts them into mmengine's registries
from slimclr.detection.check import annotation_file, check_coco
from slimclr.detection.detector import SlimmableMaskRCNN
from slimclr.detection.evaluation import measure
from slimclr.detection.kept import save_detector
from slimclr.detection.pictures import write_pictures
from slimclr.detection.recipe import build_config
from slimclr.engine.distributed import Process
from slimclr.engine.preemption import Preempted, stop_requests
from slimclr.errors import UserError
from slimclr.nn.weights import load_backbone
from slimclr.progress import progress

# Beside the checkpoints: COCO's photos were found whole.
CHECKED = "coco_checked.json"
# Beside the detector: what every width sees on a few photos.
PICTURES = "pictures"


def run_transfer(
    *,
    name: str,
    weights: Path,
    coco: Path,
    identity: dict[str, Any],
    checkpoints: Path,
    process: Process,
    keep: Path,
    **recipe: Any,
) -> dict[str, dict[str, float | None]] | None:
    """Train Mask R-CNN on train2017 with every width of a backbone, then measure each width on val2017.

    Every process calls this. A run that stopped goes on from its newest whole checkpoint.

    Args:
        name: What messages call the run.
        weights: The pre-trained backbone.
        coco: Folder with `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`; any data of COCO's
            shape.
        identity: What is trained, as `slimclr.engine.run_folder.identity` says it.
        checkpoints: Folder for checkpoints, mmengine's logs and its `vis_data/scalars.json`.
        process: This process.
        keep: Folder for the trained detector and its pictures.
        recipe: The other arguments of `slimclr.detection.recipe.build_config` and `model_config`.

    Returns:
        What `slimclr.detection.evaluation.measure` gives; None on all processes but the first.

    Raises:
        UserError: Weights or parts of COCO are missing or unusable, there is nothing to learn from, the batch cannot
            be shared by the processes, or a checkpoint cannot be read or written.
        Preempted: SIGTERM or SIGUSR1 asked to stop.
    """
    network, _ = load_backbone(weights)
    if network.depth in CIFAR_BLOCKS:
        raise UserError(
            f"{weights}: a {network.arch}, a network for 32 px images without the four maps that FPN takes; give the "
            f"weights of a ResNet of {', '.join(map(str, BLOCKS))} layers"
        )
    config = build_config(
        weights=weights,
        stage_channels=network.stage_channels,
        coco=coco,
        classes=check_coco(coco, checkpoints / CHECKED),
        checkpoints=checkpoints,
        processes=process.world_size,
        **recipe,
    )
    try:
        return _train(config, coco, name=name, identity=identity, keep=keep, shape=network.shape)
    except (Preempted, UserError) as error:
        # Not with its frames: they hold the wrapped model, which has to go before its process group does.
        ending = error.with_traceback(None)
    # Nor with loader workers, for which the interpreter's end would wait.
    gc.collect()
    raise ending


def _train(
    config: Config, coco: Path, *, name: str, identity: dict[str, Any], keep: Path, shape: dict[str, Any]
) -> dict[str, dict[str, float | None]] | None:
    # A log line that a full disk has no room for is not worth a traceback: the next checkpoint says it in one line.
    logging.raiseExceptions = False
    runner = Runner.from_cfg(config)
    training = runner.train_loop
    training.name, training.identity = name, identity
    with stop_requests() as training.request:
        runner.train()
    widths = evaluate(runner, annotations=annotation_file(coco, "val"))
    if runner.rank:
        return None
    write_pictures(keep / PICTURES, _bare(runner), runner.build_dataloader(config.eval_dataloader, seed=0).dataset)
    save_detector(keep, _bare(runner), config, shape=shape, header={"name": name, "inputs": identity["inputs"]})
    return widths


def _bare(runner: Runner) -> SlimmableMaskRCNN:
    """The detector without its distributed wrapper."""
    return getattr(runner.model, "module", runner.model)


def evaluate(runner: Runner, *, annotations: Path) -> dict[str, dict[str, float | None]]:
    """COCO's average precision of every width after training, see `slimclr.detection.evaluation.measure`.

    Args:
        runner: Holds the trained detector and the configuration with `eval_dataloader`.
        annotations: The annotation file of these images.

    Raises:
        Preempted: SIGTERM or SIGUSR1 asked to stop.
    """
    training, model = runner.train_loop, _bare(runner)
    loader = runner.build_dataloader(runner.cfg.eval_dataloader, seed=runner.seed)
    # Batch norms' running statistics are each process's own; a checkpoint has the first one's.
    for buffer in model.buffers():
        broadcast(buffer)

    def after_batch(done: int) -> None:
        if training.asked_to_stop(last=done == len(loader)):
            raise Preempted(
                f"{training.name}: asked to stop ({training.request.signal or 'another process was'}) and stopped "
                "while evaluating; run this stage again, the training is done"
            )
        if advance is not None:
            advance(1)

    shown = nullcontext() if runner.rank else progress(f"{training.name}, evaluation", len(loader), unit="batches")
    with shown as advance, stop_requests() as request:
        request.signal = training.request.signal
        training.request = request
        return measure(model, loader, annotations=annotations, after_batch=after_batch)
