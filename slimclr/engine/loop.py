"""The one training loop: pre-training, supervised training and probes."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slimclr.analysis.gradients import gradient_record
from slimclr.data.loaders import Loader
from slimclr.engine.checkpoints import load_newest, save_checkpoint
from slimclr.engine.distributed import Processes, barrier
from slimclr.engine.records import Records
from slimclr.errors import UserError
from slimclr.methods.base import Method, Output
from slimclr.progress import Advance, progress

AMP = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Trainer:
    """Trains a method to its last epoch, from the newest checkpoint where there is one.

    Attributes:
        method: What is trained, on this process's device.
        optimizer: Moves `method.trainable()`.
        schedule: Step -> learning rate.
        loader: Batches of this process.
        epochs: Epochs.
        accumulation: Batches per optimiser step.
        where: This process.
        folder: Checkpoints and records.
        precision: fp32, fp16 (with a gradient scaler) or bf16.
        grad_clip: Greatest norm of the whole gradient; None: not clipped.
        log_every: Steps between records.
        gradients_every: Steps between gradient records (of the step's last batch), None: none.
        name: What progress calls it.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    loader: Loader
    epochs: int
    where: Processes
    folder: Path
    accumulation: int = 1
    precision: str = "fp32"
    grad_clip: float | None = None
    log_every: int = 10
    gradients_every: int | None = None
    name: str = "train"

    def __post_init__(self) -> None:
        self.steps_per_epoch = len(self.loader) // self.accumulation
        self.scaler = torch.amp.GradScaler(self.where.device.type, enabled=self.precision == "fp16")
        self.step = 0
        self._waited = 0.0
        self._gradients: dict[str, Any] = {}
        self._note = ""

    def train(self) -> None:
        """Run all remaining epochs, with a checkpoint after each."""
        first = self._resume()
        records = Records(self.folder, step=self.step) if self.where.main else None
        total = (self.epochs - first) * self.steps_per_epoch
        parallel: nn.Module = self.method
        widths: tuple[float, ...] = ()
        shown = progress(self.name, total, unit="steps") if self.where.main else nullcontext(lambda *_: None)
        with shown as advance:
            for epoch in range(first, self.epochs):
                if widths != self.method.active_widths(epoch):
                    widths = self.method.active_widths(epoch)
                    parallel = self._parallel(epoch)
                self._train_epoch(epoch, parallel, records, advance)
                if self.where.main:
                    save_checkpoint(self.folder, epoch + 1, self._state(epoch + 1))
                barrier(self.where)
        if records is not None:
            records.close()

    def _train_epoch(self, epoch: int, parallel: nn.Module, records: Records | None, advance: Advance) -> None:
        self.method.train()
        self.loader.load_state_dict({"epoch": epoch, "batch": 0})
        batches, logged, images = self._timed(iter(self.loader)), time.perf_counter(), 0
        for step in range(self.steps_per_epoch):
            rate = self.schedule(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            output, count = self._train_step(epoch + step / self.steps_per_epoch, parallel, batches)
            self.step += 1
            images += count
            advance(1, self._note)
            if self.step % self.log_every == 0 or step + 1 == self.steps_per_epoch or self._gradients:
                seconds = time.perf_counter() - logged
                self._log(output, epoch + (step + 1) / self.steps_per_epoch, rate, images / seconds, seconds, records)
                logged, images, self._waited, self._gradients = time.perf_counter(), 0, 0.0, {}

    def _train_step(self, epoch: float, parallel: nn.Module, batches: Iterator[Any]) -> tuple[Output, int]:
        """One optimiser step over `accumulation` batches; gives the last batch's output and the images seen."""
        self.optimizer.zero_grad(set_to_none=True)
        self.method.before_step(epoch)
        count = 0
        for micro in range(self.accumulation):
            views, labels = next(batches)
            views = [self._to_device(view) for view in views]
            labels = labels.to(self.where.device, non_blocking=True)
            last = micro + 1 == self.accumulation
            # Gradients are exchanged once, with the last batch.
            with self._no_sync(parallel) if not last else nullcontext(), self._autocast():
                output: Output = parallel(views, labels, epoch, self.step * self.accumulation + micro)
            with self._no_sync(parallel) if not last else nullcontext():
                if last and self.gradients_every and (self.step + 1) % self.gradients_every == 0:
                    self._gradients = self._record_gradients(output)
                self.scaler.scale(output.loss / self.accumulation).backward()
            count += len(labels) * self.where.world
        if self.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.method.trainable().parameters(), self.grad_clip)
        self.method.after_step()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return output, count

    def _record_gradients(self, output: Output) -> dict[str, Any]:
        losses = {width: self.scaler.scale(result.loss) for width, result in output.widths.items()}
        return gradient_record(self.method.trainable(), losses, scale=self.scaler.get_scale())

    def _parallel(self, epoch: int) -> nn.Module:
        """The method, wrapped for several processes; built anew when sub-networks join, so that no parameter idles."""
        self.method.require_gradients(epoch)
        if self.where.world == 1:
            return self.method
        # Batch-norm statistics are each process's own; the queue is the same everywhere by construction.
        return DistributedDataParallel(self.method, broadcast_buffers=False)

    def _no_sync(self, parallel: nn.Module) -> AbstractContextManager[None]:
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = AMP.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.where.device.type, dtype)

    def _to_device(self, images: Tensor) -> Tensor:
        return images.to(self.where.device, non_blocking=True, memory_format=torch.channels_last)

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _log(
        self, output: Output, epoch: float, rate: float, speed: float, seconds: float, records: Records | None
    ) -> None:
        loss = output.loss.item()
        if not math.isfinite(loss) and self.precision != "fp16":
            raise UserError(
                f"{self.name}: the loss is {loss} at step {self.step} (learning rate {rate:g}); lower optimizer.lr "
                f"and rerun, the checkpoint of the last finished epoch is in {self.folder}"
            )
        if records is None:
            return
        widths = {
            str(width): {"loss": result.loss.item(), "accuracy": 100 * result.accuracy.item()}
            for width, result in output.widths.items()
        }
        values: dict[str, Any] = {
            "step": self.step,
            "epoch": round(epoch, 4),
            "lr": rate,
            "loss": loss,
            "widths": widths,
        }
        speeds = {"images_per_s": round(speed, 1), "data_wait": round(self._waited / seconds, 4)}
        self._note = f"loss {loss:.4g}, waiting for data {100 * self._waited / seconds:.0f} % of the time"
        gradients = {"gradients": self._gradients} if self._gradients else {}
        records.write(values | speeds | gradients)

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _resume(self) -> int:
        """Load the newest checkpoint; gives the number of finished epochs."""
        state = load_newest(self.folder)
        if state is None:
            return 0
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if self.where.main:
            print(
                f"{self.name}: resuming after epoch {state['epoch']}, step {self.step}, from {self.folder}", flush=True
            )
        return state["epoch"]
