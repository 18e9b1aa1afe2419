"""The training loop, for pre-training, supervised training and probes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slimclr.analysis.gradients import gradient_record
from slimclr.data.loading.base import Loader
from slimclr.engine.agreement import Agreement, Flags
from slimclr.engine.checkpoints import CheckpointManager
from slimclr.engine.distributed import Process, barrier
from slimclr.engine.finite import FiniteCheck, report_not_finite
from slimclr.engine.meter import Meter, batch_losses
from slimclr.engine.preemption import Preempted, StopRequest, preempted, stop_requests
from slimclr.engine.random_state import random_state, set_random_state
from slimclr.engine.records import Records
from slimclr.engine.resume import checkpoint_to_resume, load_weights, read_checkpoint
from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.methods.base import Method, Output
from slimclr.nn.running_statistics import statistics_kept
from slimclr.progress import Advance, progress

LR_SCALE = "lr_scale"
"""Key of an optimiser's group of parameters: what its learning rate is multiplied with."""
AMP = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Stateful(Protocol):
    """What goes on from a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""


@dataclass(frozen=True)
class _Session:
    """Objects that live as long as `train()`.

    Attributes:
        request: A stop that a signal requested.
        agreement: What the processes agree on.
        records: Records of the run, on rank 0.
        advance: Reports steps done to the progress.
    """

    request: StopRequest
    agreement: Agreement
    records: Records | None
    advance: Advance


@dataclass
class Trainer:
    """Trains a method to its last epoch, from the newest checkpoint where there is one.

    A checkpoint is written after every epoch, every `checkpoint_minutes`, and when a signal requests a stop. A run that
    resumes from any of them takes the same steps as one that was never interrupted.

    Attributes:
        method: What is trained, on this process's device.
        optimizer: Optimiser of `method.trainable()`.
        schedule: Step -> learning rate.
        loader: Batches of this process.
        epochs: Epochs.
        process: This process.
        folder: Checkpoints and records.
        accumulation: Batches per optimiser step.
        precision: fp32, fp16 (with a gradient scaler) or bf16.
        grad_clip: Maximum gradient norm; None: no clipping.
        log_every: Steps between records.
        gradients_every: Steps between gradient records (of the step's last batch), None: none.
        checkpoint_minutes: Minutes between checkpoints within an epoch.
        keep_every_epochs: Keep the checkpoint of every so many epochs for good; None: none.
        monitors: What is called every so many epochs, by all processes, and returns values for the records.
        online: What learns beside the method; its state is part of a checkpoint. None: nothing.
        resume: Checkpoint to resume from, instead of the newest; later ones are set aside.
        identity: What is trained, with its `recipe`; stored in checkpoints, and compared on resuming.
        name: What progress calls it.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    loader: Loader
    epochs: int
    process: Process
    folder: Path
    accumulation: int = 1
    precision: str = "fp32"
    grad_clip: float | None = None
    log_every: int = 10
    gradients_every: int | None = None
    checkpoint_minutes: float = 15.0
    keep_every_epochs: int | None = None
    monitors: Sequence[tuple[int, Callable[[], dict[str, Any]]]] = ()
    online: Stateful | None = None
    resume: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    name: str = "train"

    def __post_init__(self) -> None:
        self.steps_per_epoch = len(self.loader) // self.accumulation
        self.step = 0  # steps taken
        self.scaler = torch.amp.GradScaler(self.process.device.type, enabled=self.precision == "fp16")
        self.checkpoints = CheckpointManager(self.folder)
        self.finite = FiniteCheck(self.method.trainable(), self.process.device)
        self.meter = Meter(self.process.device)
        # SHA-256 of the checkpoint that `resume` last named; None: never.
        self.origin: str | None = None

    def train(self) -> None:
        """Run all remaining epochs.

        Raises:
            Preempted: SIGTERM or SIGUSR1 asked to stop; a checkpoint is written.
            UserError: A loss or gradient is not finite, a checkpoint cannot be read or written.
        """
        with stop_requests() as request:
            reason = self._train_epochs(request)
            if self.process.main:
                self.checkpoints.wait()
            if reason is not None:
                raise reason
            barrier(self.process)

    def _train_epochs(self, request: StopRequest) -> Preempted | UserError | None:
        """All remaining epochs.

        Returns:
            Why it stopped early. It is not raised here: an exception keeps its stack frames alive, and with them the
            DistributedDataParallel model, which must be freed before its process group.
        """
        agreement = Agreement(self.process)
        self._resume(agreement)
        with self._records() as records, self._progress() as advance:
            session = _Session(request, agreement, records, advance)
            remaining = range(self.step // self.steps_per_epoch, self.epochs)
            # Epochs of a phase train the same widths: before slow start only the full network, then all.
            for _, phase in groupby(remaining, self.method.active_widths):
                epochs = list(phase)
                model = self._wrap(epochs[0])
                for epoch in epochs:
                    reason = self.train_epoch(epoch, model, session)
                    if reason is not None:
                        return reason
                del model  # before the next phase wraps the method again
        return None

    def train_epoch(self, epoch: int, model: nn.Module, session: _Session) -> Preempted | UserError | None:
        """The remaining steps of an epoch, with records and checkpoints when they are due.

        Args:
            epoch: The epoch, from 0.
            model: The method, in DistributedDataParallel if there are several processes.
            session: Objects that live as long as `train()`.

        Returns:
            Why training stops here; None if it continues.
        """
        self.method.train()
        first = self.step - epoch * self.steps_per_epoch
        self.loader.load_state_dict({"epoch": epoch, "batch": first * self.accumulation})
        batches = self.meter.batches(self.loader)
        for step in range(first, self.steps_per_epoch):
            widths = tuple(self.train_step(epoch + step / self.steps_per_epoch, model, batches).widths)
            self.step += 1
            last = step + 1 == self.steps_per_epoch
            session.advance(1, self.meter.note)
            if self.step % self.log_every == 0 or last or self.meter.gradients:
                done = epoch + (step + 1) / self.steps_per_epoch
                self.meter.write(session.records, step=self.step, epoch=done, lr=self._lr(), widths=widths)
            agreed = session.agreement.all_reduce(
                self._flags(session.request), wait=last, check_pending=self.finite.check_pending
            )
            if agreed.not_finite:
                return self._not_finite(widths)
            if last:
                self._monitor(epoch + 1, session.records)
            if last or agreed.save or agreed.stop:
                self._save(epoch + last, session.agreement, last=last)
            if agreed.stop and self.step < self.epochs * self.steps_per_epoch:
                return preempted(self.name, session.request, step=self.step, folder=self.folder)
        for _ in batches:  # exhausts the loader: DALI then begins to read the next epoch
            pass
        return None

    def train_step(self, epoch: float, model: nn.Module, batches: Iterator[Any]) -> Output:
        """One optimiser step over `accumulation` batches.

        Args:
            epoch: Fractional epoch at the start of the step.
            model: The method, in DistributedDataParallel if there are several processes.
            batches: Iterator over the batches.

        Returns:
            The method's output for the last batch.
        """
        self._set_lr()
        self.optimizer.zero_grad(set_to_none=True)
        losses, images = [], 0
        for micro, (views, labels) in enumerate(self._step_batches(epoch, batches)):
            last = micro + 1 == self.accumulation
            # Gradients are all-reduced once per step, with the last batch.
            with nullcontext() if last else _no_sync(model):
                # Running statistics follow one batch of a step, as with as many processes.
                with self._autocast(), statistics_kept(self.method) if micro else nullcontext():
                    output: Output = model(views, labels, epoch)
                if last and self.gradients_every and (self.step + 1) % self.gradients_every == 0:
                    self.meter.gradients = self._gradient_record(output)
                self.scaler.scale(output.loss / self.accumulation).backward()
            losses.append(batch_losses(output))
            images += len(labels) * self.process.world_size
        # The mean is not finite where one batch is not.
        norm = self._update(torch.stack(losses).mean(0))
        self.meter.add(losses, norm, images=images)
        return output

    def _step_batches(self, epoch: float, batches: Iterator[Any]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The step's batches on the device, once the method has prepared the step."""
        coming = (self._to_device(next(batches)) for _ in range(self.accumulation))
        whole = list(coming) if self.method.needs_whole_step else []
        with self._autocast():
            self.method.before_step(epoch, self.step, [views for views, _ in whole])
        yield from whole or coming

    def _update(self, losses: Tensor) -> Tensor:
        """Take the optimiser step, unless a gradient or loss is not finite; returns the gradient norm."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        moved = [parameter for parameter in self.method.trainable().parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in moved if parameter.grad is not None])
        numbers = self.finite.numbers(losses, norm.float(), scaled=self.scaler.is_enabled())
        if self.grad_clip is not None:
            # Clipping by a norm that is not finite would hide which gradient it came from.
            nn.utils.clip_grads_with_norm_(moved, self.grad_clip, norm.nan_to_num(0.0, 0.0, 0.0))
        self.method.after_step()
        self.finite.step(self.optimizer, self.scaler)
        self.finite.check(self.step + 1, numbers)
        return norm.float()

    def _set_lr(self) -> None:
        lr = self.schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get(LR_SCALE, 1.0)

    def _lr(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def _to_device(self, batch: tuple[list[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        views, labels = batch
        device = self.process.device
        moved = [view.to(device, non_blocking=True, memory_format=torch.channels_last) for view in views]
        return moved, labels.to(device, non_blocking=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = AMP.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.process.device.type, dtype)

    def _gradient_record(self, output: Output) -> dict[str, Any]:
        losses = {width: self.scaler.scale(result.loss) for width, result in output.widths.items()}
        return gradient_record(self.method.trainable(), losses, scale=self.scaler.get_scale())

    def _wrap(self, epoch: int) -> nn.Module:
        """Wrap the method in DistributedDataParallel; again when sub-networks join, so that no parameter is unused."""
        self.method.require_gradients(epoch)
        if self.process.world_size == 1:
            return self.method
        # Each process has its own running statistics; the queue is the same on all processes by construction.
        return DistributedDataParallel(self.method, broadcast_buffers=False)

    def _flags(self, request: StopRequest) -> Flags:
        due = self.process.main and self.checkpoints.due(self.checkpoint_minutes)
        return Flags(stop=bool(request.signal), save=due, not_finite=self.finite.found is not None)

    def _monitor(self, epochs: int, records: Records | None) -> None:
        """Record the values of the monitors that are due after so many epochs, each on a line of its own."""
        for every, monitor in self.monitors:
            if epochs % every == 0:
                values = monitor()
                if records is not None:
                    records.write({"step": self.step, "epoch": epochs, **values})

    def _not_finite(self, widths: tuple[float, ...]) -> UserError:
        """Write a file for the investigation of the number that is not finite, and return the error."""
        found = self.finite.found
        if found is None:
            return UserError(f"{self.name}: stopped, as a number of another process is not finite; see its error")
        epoch, step = divmod(found.step - 1, self.steps_per_epoch)
        batches = self.loader.sampler.batches(epoch, step * self.accumulation)[: self.accumulation]
        return report_not_finite(
            found,
            self.folder / f"not_finite_step_{found.step:08d}_rank_{self.process.rank}.pt",
            name=self.name,
            epoch=epoch,
            lr=self.schedule(found.step - 1),
            widths=widths,
            images=[torch.from_numpy(images) for images in batches],
            method=self.method,
        )

    def _save(self, epochs: int, agreement: Agreement, *, last: bool) -> None:
        """Write a checkpoint; all processes call this at the same step, `last` at an epoch's end."""
        random_states = agreement.gather(random_state(self.process.device))
        if not self.process.main:
            return
        state = {
            "epoch": epochs,
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states,
            "since_record": self.meter.state_dict(),
            "identity": self.identity,
            "origin": self.origin,
            **({} if self.online is None else {"online": self.online.state_dict()}),
        }
        keep = last and self.keep_every_epochs is not None and epochs % self.keep_every_epochs == 0
        self.checkpoints.save(state, keep=keep)

    def _resume(self, agreement: Agreement) -> None:
        """Resume from a checkpoint, if there is one."""
        path = checkpoint_to_resume(self.checkpoints, self.resume, name=self.name) if self.process.main else None
        path = agreement.broadcast(path)
        if path is None:
            return
        anew = "leave out --resume" if self.resume else f"remove {self.folder}"
        state = read_checkpoint(path, self.identity, anew=anew)
        load_weights(path, state, self.method, self.optimizer)
        self.origin = state.get("origin")
        if self.online is not None and "online" in state:
            self.online.load_state_dict(state["online"])
        if path == self.resume:
            self.origin = sha256(path)
            if self.process.main:
                self.checkpoints.go_back(path, state["step"])
        self.scaler.load_state_dict(state["scaler"])
        # The loader's epoch and batch follow from the step, also if the world size changed.
        self.step = state["step"]
        self.meter.load_state_dict(state["since_record"])
        if len(state["random"]) == self.process.world_size:
            set_random_state(state["random"][self.process.rank], self.process.device)
        if self.process.main:
            total = self.epochs * self.steps_per_epoch
            print(f"{self.name}: going on after step {self.step:,} of {total:,}, from {path}", flush=True)

    def _records(self) -> AbstractContextManager[Records | None]:
        return closing(Records(self.folder, step=self.step)) if self.process.main else nullcontext()

    def _progress(self) -> AbstractContextManager[Advance]:
        total = self.epochs * self.steps_per_epoch - self.step
        return progress(self.name, total, unit="steps") if self.process.main else nullcontext(lambda *_: None)


def _no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients without all-reduce."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
