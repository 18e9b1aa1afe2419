"""The part of the GPU proof that trains: the loop resumes exactly, and no number that is not finite spoils weights."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.method_steps import method_of, optimizer_of
from benchmarks.proof_report import Report
from slimclr.data.loading.base import Batch, Loader
from slimclr.data.loading.samplers import TrainingSampler
from slimclr.engine.checkpoints import list_checkpoints, load_checkpoint
from slimclr.engine.distributed import Process
from slimclr.engine.loop import Trainer
from slimclr.engine.preemption import Preempted
from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.nn.placement import place

WIDTHS = (1.0, 0.75, 0.5, 0.25)


class Drawn(Loader):
    """Two noisy views of random images, drawn on the device from epoch and batch alone.

    Args:
        batches: Of an epoch.
        batch: Images of one.
        side: Their side in pixels.
        device: Where they are drawn.
        stop_after: Batches of all epochs after which SIGTERM asks this process to stop.
        not_finite: The batch of the first epoch, counted from 1, in which a pixel is not a number.
    """

    def __init__(
        self, batches: int, batch: int, side: int, device: torch.device, *, stop_after: int = 0, not_finite: int = 0
    ):
        super().__init__(TrainingSampler(batches * batch, batch, batch, seed=0))
        self.size, self.side, self.device = batch, side, device
        self.stop_after, self.not_finite = stop_after, not_finite

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for number in range(start, len(self)):
            seen = epoch * len(self) + number + 1
            generator = torch.Generator(self.device).manual_seed(seen)
            shape = (self.size, 3, self.side, self.side)
            images = torch.randn(shape, device=self.device, generator=generator)
            views = [images + torch.randn(shape, device=self.device, generator=generator) for _ in range(2)]
            if seen == self.not_finite:
                views[0][0, 0, 0, 0] = float("nan")
            if seen == self.stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            yield views, torch.zeros(self.size, dtype=torch.long, device=self.device)


def trainer(report: Report, folder: Path, *, epochs: int, batches: int, precision: str, **loader: int) -> Trainer:
    """A training of SlimCLR-MoCo v2 that always begins with the same weights."""
    torch.manual_seed(0)
    quick, device = report.quick, report.device
    backbone = SlimmableResNet(14, 16, WIDTHS) if quick else SlimmableResNet(50, 64, WIDTHS)
    method = method_of("mocov2", backbone, queue=64 if quick else 65536)
    place(method, device)
    optimizer = optimizer_of("mocov2")(list(method.trainable().parameters()))
    images = Drawn(batches, 4 if quick else 64, 32 if quick else 224, device, **loader)
    return Trainer(
        method=method,
        optimizer=optimizer,
        schedule=lambda step: 0.03,
        loader=images,
        epochs=epochs,
        process=Process(0, 1, device),
        folder=folder,
        precision=precision,
        log_every=1,
        checkpoint_minutes=1e6,
    )


def differences(one: Path, other: Path) -> tuple[bool, float]:
    """Whether method and optimiser of two checkpoints are the same to the bit, and the greatest relative difference."""
    same, greatest = True, 0.0
    states = [_tensors({key: load_checkpoint(path)[key] for key in ("method", "optimizer")}) for path in (one, other)]
    for left, right in zip(*states, strict=True):
        same &= torch.equal(left, right)
        if left.is_floating_point():
            greatest = max(greatest, float((left - right).norm() / left.norm().clamp(min=1e-12)))
    return same, greatest


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def resumed(report: Report, precision: str) -> dict[str, Any]:
    """200 steps at a stretch, and stopped by SIGTERM in the middle of an epoch and continued."""
    batches, stop = (4, 6) if report.quick else (100, 150)
    with tempfile.TemporaryDirectory() as place:
        whole, parts = Path(place, "whole"), Path(place, "parts")
        options: dict[str, Any] = {"epochs": 2, "batches": batches, "precision": precision}
        trainer(report, whole, **options).train()
        lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines]
        if len(losses) != 2 * batches or None in losses:
            raise RuntimeError(f"{losses.count(None)} of {len(losses)} losses are not finite")
        try:
            trainer(report, parts, **options, stop_after=stop).train()
            raise RuntimeError("SIGTERM did not stop the training")
        except Preempted as stopped:
            print(stopped)
        # Newest last: the end of the first epoch, which both runs have computed by themselves, then the stop.
        first = [{int(path.stem[-8:]): path for path in list_checkpoints(folder)} for folder in (whole, parts)]
        repeated, _ = differences(*(paths[batches] for paths in first))
        trainer(report, parts, **options).train()
        newest = [list_checkpoints(folder) for folder in (whole, parts)]
        same, greatest = differences(*(max(paths, key=lambda path: path.stem[-8:]) for paths in newest))
        again = [json.loads(line)["loss"] for line in (parts / "metrics.jsonl").read_text().splitlines()]
    told = {"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1], "stopped_after": stop}
    told |= {"losses_equal": losses == again, "resume_exact": same, "greatest_relative_difference": greatest}
    told |= {"same_steps_twice_are_the_same": repeated}
    if repeated and not same:
        raise RuntimeError(f"the continued training differs from the uninterrupted one: {told}")
    return told


def not_finite(report: Report, precision: str) -> dict[str, Any]:
    """A pixel that is not a number in the fifth step: the training stops, and no weight is spoilt."""
    with tempfile.TemporaryDirectory() as place:
        run = trainer(report, Path(place), epochs=1, batches=8, precision=precision, not_finite=5)
        try:
            run.train()
        except UserError as error:
            told = str(error)
        else:
            raise RuntimeError("the training went on")
        if "at step 5" not in told:
            raise RuntimeError(told)
        spoilt = [name for name, weight in run.method.trainable().named_parameters() if not weight.isfinite().all()]
        if spoilt:
            raise RuntimeError(f"not finite: {', '.join(spoilt[:3])}")
        return {"stopped_by": told.split("; ")[0].split(": ", 1)[1], "weights_finite": True, "steps_begun": run.step}


def overflow(report: Report) -> dict[str, Any]:
    """A gradient scaler that begins far too high: steps are left out until it fits, and the training goes on."""
    with tempfile.TemporaryDirectory() as place:
        batches = 24 if report.quick else 40
        run = trainer(report, Path(place), epochs=1, batches=batches, precision="fp16")
        run.scaler = torch.amp.GradScaler(report.device.type, init_scale=2.0**30)
        before = next(iter(run.method.trainable().parameters())).detach().clone()
        run.train()
        finite = all(weight.isfinite().all() for weight in run.method.trainable().parameters())
        moved = not torch.equal(before, next(iter(run.method.trainable().parameters())))
        scale = run.scaler.get_scale()
        if not finite or not moved or scale >= 2.0**30:
            raise RuntimeError(f"weights finite {finite}, moved {moved}, scale {scale:g}")
        return {"scale_before": 2.0**30, "scale_after": scale, "weights_finite": finite, "moved": moved}


def training_part(report: Report) -> None:
    """The training loop on this device."""
    # Asked for before the first matrix product: without it some kernels add up in any order.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    report.measure("not_finite_bf16", lambda: not_finite(report, "bf16"), needs=1)
    report.measure("overflow_fp16", lambda: overflow(report), needs=1)
    report.longest = 0.0
    report.measure("resume_bf16", lambda: resumed(report, "bf16"))
    if not report.quick:
        report.measure("resume_fp16", lambda: resumed(report, "fp16"))
