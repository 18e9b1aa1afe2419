"""The one training loop: pre-training, supervised training and probes."""

import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slimclr.analysis.gradients import gradient_record
from slimclr.data.loaders import Loader
from slimclr.engine.checkpoints import Checkpoints, load_checkpoint
from slimclr.engine.distributed import Processes, barrier
from slimclr.engine.folder import refuse_other
from slimclr.engine.preemption import Preempted, Request, stop_requests
from slimclr.engine.records import Records
from slimclr.errors import UserError
from slimclr.files import atomic_path, sha256
from slimclr.methods.base import Method, Output
from slimclr.progress import Advance, progress

AMP = {"fp16": torch.float16, "bf16": torch.bfloat16}
# What the processes tell each other after every step.
_STOP, _SAVE, _NOT_FINITE = range(3)
# Overflows in a row after which the scaler, which halves its factor each time, will not find a better one.
_OVERFLOWS = 50


@dataclass
class Trainer:
    """Trains a method to its last epoch, from the newest checkpoint where there is one.

    A checkpoint is written after every epoch, after so many minutes, and when a signal asks to stop. A run that goes on
    from any of them makes the same steps as one that never stopped.

    Attributes:
        method: What is trained, on this process's device.
        optimizer: Moves `method.trainable()`.
        schedule: Step -> learning rate.
        loader: Batches of this process.
        epochs: Epochs.
        where: This process.
        folder: Checkpoints and records.
        accumulation: Batches per optimiser step.
        precision: fp32, fp16 (with a gradient scaler) or bf16.
        grad_clip: Greatest norm of the whole gradient; None: not clipped.
        log_every: Steps between records.
        gradients_every: Steps between gradient records (of the step's last batch), None: none.
        checkpoint_minutes: Minutes between checkpoints within an epoch.
        keep_every_epochs: Checkpoints of these epochs stay for good; None: none.
        monitor: Gives values for the records, computed by all processes together; None: none.
        monitor_every: Epochs between calls of it.
        resume: Checkpoint to go on from, instead of the newest; what came after it is set aside.
        identity: What is trained, with its `recipe`: kept in checkpoints, and one of something else is refused.
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
    checkpoint_minutes: float = 15.0
    keep_every_epochs: int | None = None
    monitor: Callable[[], dict[str, Any]] | None = None
    monitor_every: int = 1
    resume: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    name: str = "train"

    def __post_init__(self) -> None:
        self.steps_per_epoch = len(self.loader) // self.accumulation
        self.scaler = torch.amp.GradScaler(self.where.device.type, enabled=self.precision == "fp16")
        self.checkpoints = Checkpoints(self.folder)
        self.step = 0
        self._parallel: nn.Module | None = None
        self._group: dist.ProcessGroup | None = None
        self._told: tuple[Any, Tensor] | None = None
        self._coming: tuple[int, Tensor, torch.cuda.Event] | None = None
        # The first step whose numbers are not finite, and these; no later step moves the weights either, but for those
        # that the scaler lets through.
        self._bad: tuple[int, Tensor] | None = None
        self._bad_gradients: list[str] | None = None
        self._finite = torch.ones((), dtype=torch.bool, device=self.where.device)
        self._overflows = torch.zeros((), device=self.where.device)
        # SHA-256 of the checkpoint that `resume` named.
        self._origin: str | None = None
        self._saved = time.monotonic()
        self._waited = 0.0
        self._gradients: dict[str, Any] = {}
        # Of every batch since the last record: the loss, each width's loss and accuracy; of every step: the norm. They
        # stay on the device until they are read all at once, since each would wait for the GPU by itself.
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._note = ""

    def train(self) -> None:
        """Run all remaining epochs.

        Raises:
            Preempted: SIGTERM or SIGUSR1 asked to stop; a checkpoint is written.
            UserError: A loss or gradient is not finite, a checkpoint cannot be read or written.
        """
        with stop_requests() as request:
            if self.where.world > 1:
                # On the CPU and with gloo, so that asking never waits for a GPU.
                self._group = dist.new_group(backend="gloo", timeout=timedelta(hours=1))
            self._resume()
            # No exception passes through the frames that hold the wrapped model: its process group has to end first.
            reason = self._run(request)
            self._parallel = self._told = self._group = None
            if self.where.main:
                self.checkpoints.wait()
            if reason is not None:
                raise reason
            barrier(self.where)

    def _run(self, request: Request) -> Exception | None:
        """All remaining epochs; gives the reason to stop before their end."""
        records = Records(self.folder, step=self.step) if self.where.main else None
        total = self.epochs * self.steps_per_epoch - self.step
        widths: tuple[float, ...] = ()
        shown = progress(self.name, total, unit="steps") if self.where.main else nullcontext(lambda *_: None)
        reason = None
        with shown as advance:
            for epoch in range(self.step // self.steps_per_epoch, self.epochs):
                if widths != self.method.active_widths(epoch):
                    widths = self.method.active_widths(epoch)
                    self._wrap(epoch)
                reason = self._train_epoch(epoch, records, advance, request)
                if reason is not None:
                    break
        if records is not None:
            records.close()
        return reason

    def _train_epoch(self, epoch: int, records: Records | None, advance: Advance, request: Request) -> Exception | None:
        self.method.train()
        first = self.step - epoch * self.steps_per_epoch
        self.loader.load_state_dict({"epoch": epoch, "batch": first * self.accumulation})
        batches, logged, images = self._timed(iter(self.loader)), time.perf_counter(), 0
        self._waited = 0.0
        for step in range(first, self.steps_per_epoch):
            rate = self.schedule(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            output, count = self._train_step(epoch + step / self.steps_per_epoch, batches)
            self.step += 1
            images += count
            advance(1, self._note)
            last = step + 1 == self.steps_per_epoch
            if self.step % self.log_every == 0 or last or self._gradients:
                seconds = time.perf_counter() - logged
                done = epoch + (step + 1) / self.steps_per_epoch
                self._log(tuple(output.widths), done, rate, images / seconds, seconds, records)
                logged, images, self._waited, self._gradients = time.perf_counter(), 0, 0.0, {}
            asked = self._agree(request, last=last)
            if asked[_NOT_FINITE]:
                return self._not_finite(tuple(output.widths))
            if last and self.monitor is not None and (epoch + 1) % self.monitor_every == 0:
                values = self.monitor()
                if records is not None:
                    records.write({"step": self.step, "epoch": epoch + 1, **values})
            if last or asked[_SAVE] or asked[_STOP]:
                keep = last and self.keep_every_epochs is not None and (epoch + 1) % self.keep_every_epochs == 0
                self._save(epoch + last, keep=keep)
            if asked[_STOP] and self.step < self.epochs * self.steps_per_epoch:
                return Preempted(
                    f"{self.name}: asked to stop ({request.signal or 'another process was'}) and stopped after step "
                    f"{self.step} with a checkpoint in {self.folder}; run this stage again, it goes on from there"
                )
        for _ in batches:  # to the end, where DALI begins to read the next epoch
            pass
        return None

    def _train_step(self, epoch: float, batches: Iterator[Any]) -> tuple[Output, int]:
        """One optimiser step over `accumulation` batches; gives the last batch's output and the images."""
        assert self._parallel is not None
        self.optimizer.zero_grad(set_to_none=True)
        self.method.before_step(epoch)
        count = 0
        for micro in range(self.accumulation):
            views, labels = next(batches)
            views = [self._to_device(view) for view in views]
            labels = labels.to(self.where.device, non_blocking=True)
            last = micro + 1 == self.accumulation
            # Gradients are exchanged once, with the last batch.
            with self._no_sync() if not last else nullcontext(), self._autocast():
                output: Output = self._parallel(views, labels, epoch, self.step * self.accumulation + micro)
            with self._no_sync() if not last else nullcontext():
                if last and self.gradients_every and (self.step + 1) % self.gradients_every == 0:
                    self._gradients = self._record_gradients(output)
                self.scaler.scale(output.loss / self.accumulation).backward()
            count += len(labels) * self.where.world
            parts = (part for result in output.widths.values() for part in (result.loss, result.accuracy))
            self._losses.append(torch.stack([part.detach().float() for part in (output.loss, *parts)]))
        self._norms.append(self._move(output).float())
        return output, count

    def _move(self, output: Output) -> Tensor:
        """Move the weights, unless loss or gradient is not finite; gives the gradient's norm."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        moved = [p for p in self.method.trainable().parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in moved if p.grad is not None])
        # Of all its batches: one that is not finite makes the mean so.
        losses = torch.stack(self._losses[-self.accumulation :]).mean(0)
        gradient = norm.float()
        if self.scaler.is_enabled():
            # With half floats a gradient overflows now and then: the scaler leaves that step out and scales down.
            self._overflows = torch.where(gradient.isfinite(), 0, self._overflows + 1)
            gradient = torch.where(self._overflows > _OVERFLOWS, gradient, 0)
        numbers = torch.cat([losses, gradient[None]])
        self._finite = self._finite & numbers.isfinite().all()
        if self.grad_clip is not None:
            # A norm that is not finite would spoil every gradient, and which one it came from would be lost.
            nn.utils.clip_grads_with_norm_(moved, self.grad_clip, norm.nan_to_num(0.0, 0.0, 0.0))
        self.method.after_step()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self._finite.is_cuda and getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # The kernel itself leaves the step out, so that nobody waits for the GPU to know.
            self.optimizer.found_inf = (~self._finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif self._finite.item():
            self.optimizer.step()
        self._fetch(numbers)
        return norm

    def _fetch(self, numbers: Tensor) -> None:
        """Look at the step's numbers; those on a GPU are looked at a step later, when they have arrived."""
        if not numbers.is_cuda:
            self._look(self.step + 1, numbers, gradients=True)
            return
        copy = torch.empty_like(numbers, device="cpu", pin_memory=True)
        copy.copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._wait_for_numbers(gradients=False)
        self._coming = (self.step + 1, copy, arrived)

    def _wait_for_numbers(self, *, gradients: bool) -> None:
        """Look at the numbers that are on their way; `gradients` says that the step's gradients are still there."""
        if self._coming is not None:
            (step, numbers, arrived), self._coming = self._coming, None
            arrived.synchronize()
            self._look(step, numbers, gradients=gradients)

    def _look(self, step: int, numbers: Tensor, *, gradients: bool) -> None:
        if self._bad is not None or numbers.isfinite().all():
            return
        self._bad = (step, numbers)
        if gradients:
            self._bad_gradients = [
                name
                for name, parameter in self.method.trainable().named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            ]

    def _agree(self, request: Request, *, last: bool) -> list[bool]:
        """What any process wants: to stop, a checkpoint, or to stop because a number is not finite.

        Several processes ask each other without waiting, so they act one step after the wish, all at the same one. At
        an epoch's end, and before any checkpoint, they wait: none is written of a step whose numbers nobody has seen.
        """
        due = self.where.main and time.monotonic() - self._saved > 60 * self.checkpoint_minutes
        asked = [bool(request.signal), due, self._bad is not None]
        if self.where.world > 1:
            wishes, asked = asked, [False, False, False]
            if self._told is not None:
                self._told[0].wait()
                asked = self._told[1].bool().tolist()
            self._told = None
        if last or any(asked):
            self._wait_for_numbers(gradients=True)
            own = self._bad is not None
            asked[_NOT_FINITE] |= own
            if self.where.world > 1:
                now = torch.tensor([*wishes[:_NOT_FINITE], own], dtype=torch.uint8)
                dist.all_reduce(now, dist.ReduceOp.MAX, self._group)
                asked = [before or new for before, new in zip(asked, now.bool().tolist(), strict=True)]
        elif self.where.world > 1:
            now = torch.tensor(wishes, dtype=torch.uint8)
            self._told = (dist.all_reduce(now, dist.ReduceOp.MAX, self._group, async_op=True), now)
        return asked

    def _not_finite(self, widths: tuple[float, ...]) -> Exception:
        """Leave what is needed to look at it."""
        if self._bad is None:
            return UserError(f"{self.name}: stopped, as a number of another process is not finite; see its error")
        bad, numbers = self._bad
        epoch, step = divmod(bad - 1, self.steps_per_epoch)
        rate = self.schedule(bad - 1)
        batches = self.loader.order.batches(epoch, step * self.accumulation)[: self.accumulation]
        path = self.folder / f"not_finite_step_{bad:08d}_rank_{self.where.rank}.pt"
        with atomic_path(path) as part:
            torch.save(
                {
                    "step": bad,
                    "epoch": epoch,
                    "lr": rate,
                    "loss": numbers[0].item(),
                    "widths": {str(width): loss.item() for width, loss in zip(widths, numbers[1::2], strict=False)},
                    "images": [torch.from_numpy(images) for images in batches],
                    "not_finite_gradients": self._bad_gradients,
                    "method": self.method.state_dict(),
                },
                part,
            )
        # On a GPU they are gone by the time that the numbers arrive.
        names = self._bad_gradients
        gradients = "" if names is None else f"; {len(names)} parameters have gradients that are not finite"
        return UserError(
            f"{self.name}: the loss is {numbers[0].item():g} at step {bad} (learning rate {rate:g}{gradients}); that "
            f"step did not move the weights. Losses, weights and the batch's images are in {path}; lower optimizer.lr "
            f"and rerun, the checkpoints are in {self.folder}"
        )

    def _record_gradients(self, output: Output) -> dict[str, Any]:
        losses = {width: self.scaler.scale(result.loss) for width, result in output.widths.items()}
        return gradient_record(self.method.trainable(), losses, scale=self.scaler.get_scale())

    def _wrap(self, epoch: int) -> None:
        """Wrap the method for several processes; anew when sub-networks join, so that no parameter idles."""
        self.method.require_gradients(epoch)
        self._parallel = None
        # Batch-norm statistics are each process's own; the queue is the same everywhere by construction.
        alone = self.where.world == 1
        self._parallel = self.method if alone else DistributedDataParallel(self.method, broadcast_buffers=False)

    def _no_sync(self) -> AbstractContextManager[None]:
        wrapped = isinstance(self._parallel, DistributedDataParallel)
        return self._parallel.no_sync() if wrapped else nullcontext()  # type: ignore[union-attr, operator]

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
        self,
        widths: tuple[float, ...],
        epoch: float,
        rate: float,
        speed: float,
        seconds: float,
        records: Records | None,
    ) -> None:
        losses, norms = torch.stack(self._losses), torch.stack(self._norms)
        self._losses, self._norms = [], []
        if records is None:
            return
        loss, *rest, size = torch.cat([losses.double().mean(0), norms.double().mean(0, keepdim=True)]).tolist()
        per_width = {
            str(width): {"loss": own, "accuracy": 100 * accuracy}
            for width, own, accuracy in zip(widths, rest[::2], rest[1::2], strict=True)
        }
        values: dict[str, Any] = {
            "step": self.step,
            "epoch": round(epoch, 4),
            "lr": rate,
            "loss": loss,
            "gradient_norm": size,
            "widths": per_width,
        }
        speeds = {
            "images_per_s": round(speed, 1),
            "data_wait": round(self._waited / seconds, 4),
            "memory_mb": self._memory(),
        }
        each = "".join(f", {w}: {own['loss']:.4g} ({own['accuracy']:.0f} %)" for w, own in per_width.items())
        self._note = (
            f"loss {loss:.4g}{each}, lr {rate:.3g}, {speed:,.0f} images/s, waiting for data "
            f"{100 * self._waited / seconds:.0f} % of the time, {self._memory() / 1000:.1f} GB"
        )
        gradients = {"gradients": self._gradients} if self._gradients else {}
        records.write(values | speeds | gradients)

    def _memory(self) -> int:
        """Greatest memory so far in MB: the GPU's, or this process's without one."""
        if self.where.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated() / 1e6)
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)

    def _save(self, epoch: int, *, keep: bool) -> None:
        """Write a checkpoint; all processes call this at the same step."""
        random_states = self._gathered(_random_state(self.where.device))
        self._saved = time.monotonic()
        if self.where.main:
            state = {
                "epoch": epoch,
                "step": self.step,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random_states,
                "since_record": {"losses": self._losses, "norms": self._norms},
                "identity": self.identity,
                "origin": self._origin,
            }
            self.checkpoints.save(state, keep=keep)

    def _gathered(self, value: Any) -> list[Any]:
        if self.where.world == 1:
            return [value]
        values = [None] * self.where.world
        dist.all_gather_object(values, value, self._group)
        return values

    def _named(self) -> Path:
        """The checkpoint to go back to; the newest where that was done before, as the same command may run again."""
        assert self.resume is not None
        newest = self.checkpoints.going_on_from(sha256(self.resume)) if self.resume.is_file() else None
        if newest is not None:
            done = f"{newest} goes on from {self.resume} already; move it away to go back again"
            print(f"{self.name}: {done}", flush=True)
        return newest or self.resume

    def _resume(self) -> None:
        """Load the checkpoint to go on from."""
        # One process looks: a damaged one is renamed.
        path = (self._named() if self.resume else self.checkpoints.newest()) if self.where.main else None
        if self.where.world > 1:
            shared = [path]
            dist.broadcast_object_list(shared, 0, self._group)
            path = shared[0]
        if path is None:
            return
        state = load_checkpoint(path)
        if "identity" not in state:
            anew = "leave out --resume" if self.resume else f"remove {self.folder}"
            raise UserError(
                f"{path}: written by an earlier version, which this one cannot go on from; {anew} to begin anew, or "
                "use the version that wrote it"
            )
        refuse_other(path, state["identity"], self.identity)
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:  # the same recipe, but for instance other classes
            raise UserError(
                f"{path}: does not fit what is trained ({' '.join(str(error).split())[:200]}); was it trained on other "
                "images?"
            ) from None
        self._origin = state.get("origin")
        if path == self.resume:
            self._origin = sha256(path)
            if self.where.main:
                self.checkpoints.go_back(path, state["step"])
        self.scaler.load_state_dict(state["scaler"])
        # Epoch and batch of the loader follow from the step, also when the number of processes changed.
        self.step = state["step"]
        self._losses = [losses.to(self.where.device) for losses in state["since_record"]["losses"]]
        self._norms = [norm.to(self.where.device) for norm in state["since_record"]["norms"]]
        if len(state["random"]) == self.where.world:
            _set_random_state(state["random"][self.where.rank], self.where.device)
        if self.where.main:
            total = self.epochs * self.steps_per_epoch
            print(f"{self.name}: going on after step {self.step:,} of {total:,}, from {path}", flush=True)


def _random_state(device: torch.device) -> dict[str, Any]:
    """States of all generators of this process, as `torch.load(weights_only=True)` can read them."""
    name, keys, *rest = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": list(random.getstate()),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, values, gauss = states["python"]
    random.setstate((version, tuple(values), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
