"""mmengine's training loop, with the checkpoints of `slimclr.engine`: a run that stopped at any step goes on exactly.

mmengine's own checkpoints are neither written nor read: its loader would run what a foreign pickle asks for.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Generator, nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from slimclr.engine.agreement import Agreement, Flags
from slimclr.engine.checkpoints import CheckpointManager
from slimclr.engine.distributed import Process
from slimclr.engine.preemption import StopRequest, preempted
from slimclr.engine.random_state import random_state, set_random_state
from slimclr.engine.resume import checkpoint_to_resume, load_weights, read_checkpoint
from slimclr.progress import Advance, DataWait, progress
from slimclr.workers import iterate

# What changes in mmengine's schedulers; the rest of them is the recipe's.
_SCHEDULER = ("last_step", "_global_step", "_last_value")
LOG_INTERVAL = 50
"""Steps between two records of losses, rate and waiting."""


@LOOPS.register_module()
class ExactLoop(EpochBasedTrainLoop):
    """Trains to the last epoch, from the newest checkpoint in the runner's folder where there is one.

    A checkpoint is written after every epoch, after so many minutes, and when a signal asks to stop.

    Args:
        runner: mmengine's.
        dataloader: Its batches are `slimclr.detection.order.ResumableBatches`.
        max_epochs: Epochs.
        checkpoint_minutes: Minutes between checkpoints within an epoch.

    Attributes:
        name: What messages call the run.
        identity: What is trained: kept in checkpoints, and one of something else is refused.
        request: Whether a signal asked this process to stop.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict[str, Any], max_epochs: int, checkpoint_minutes: float
    ):
        super().__init__(runner, dataloader, max_epochs)
        # Own, so that beginning to read draws nothing from the generator that training uses.
        self.dataloader.generator = Generator()
        self.minutes = checkpoint_minutes
        rank, world = get_dist_info()
        self.model: Any = getattr(runner.model, "module", runner.model)
        self.process = Process(rank, world, next(self.model.parameters()).device)
        self.agreement = Agreement(self.process)
        self.checkpoints = CheckpointManager(Path(runner.work_dir))
        self.name = "transfer"
        self.identity: dict[str, Any] = {}
        self.request = StopRequest()
        # Batches of this epoch that the checkpoint already has.
        self.first = 0
        self._advance: Advance | None = None
        self._note, self._wait = "", DataWait()

    def run(self) -> nn.Module:
        """Run all remaining epochs.

        Raises:
            Preempted: SIGTERM or SIGUSR1 asked to stop; a checkpoint is written.
            UserError: A checkpoint cannot be read or written.
        """
        self._resume()
        shown = progress(self.name, self._max_iters - self._iter, unit="steps") if self.process.main else nullcontext()
        with shown as self._advance:
            model = super().run()
        self.checkpoints.wait()
        return model

    def run_epoch(self) -> None:
        """The steps of an epoch that are left."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.batch_sampler.begin(self._epoch, self.first)
        for index, batch in enumerate(self._wait.timed(iterate(self.dataloader)), self.first):
            self.run_iter(index, batch)
            self._tell()
            if index + 1 < len(self.dataloader):
                self._after_step(index + 1)
        self.first = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._after_step(0)

    def _tell(self) -> None:
        """Say how far it is; now and then with the losses and the share of the time that was waited for data."""
        hub = self.runner.message_hub
        if self._iter % LOG_INTERVAL == 0 or self._iter == self._max_iters:
            share = self._wait.share
            hub.update_scalar("train/data_wait", share)
            losses = {width: hub.get_scalar(f"train/loss_{width}").current() for width in self.model.widths}
            each = "".join(f", {width}: {loss:.4g}" for width, loss in losses.items())
            lr = self.runner.optim_wrapper.param_groups[0]["lr"]
            data = f"waiting for data {100 * share:.0f} % of the time"
            self._note = f"loss {sum(losses.values()):.4g}{each}, lr {lr:.3g}, {data}"
            self._wait.restart()
        if self._advance is not None:
            self._advance(1, self._note)

    def asked_to_stop(self, *, last: bool) -> bool:
        """Whether any process was asked to stop; all processes call this at the same time.

        Args:
            last: It is called for the last time.
        """
        return self.agreement.all_reduce(
            Flags(stop=bool(self.request.signal)), wait=last, check_pending=lambda: False
        ).stop

    def _after_step(self, batch: int) -> None:
        """Write a checkpoint where one is due, and stop where that was asked for.

        Args:
            batch: Batches done of the epoch that is under way; 0 at its end.
        """
        due = self.process.main and self.checkpoints.due(self.minutes)
        flags = Flags(stop=bool(self.request.signal), save=due)
        agreed = self.agreement.all_reduce(flags, wait=batch == 0, check_pending=lambda: False)
        if batch == 0 or agreed:
            self._save(batch)
        if agreed.stop and self._epoch < self._max_epochs:
            self.checkpoints.wait()
            raise preempted(self.name, self.request, step=self._iter, folder=self.checkpoints.folder)

    def _save(self, batch: int) -> None:
        random_states = self.agreement.gather(random_state(self.process.device))
        if not self.process.main:
            return
        schedulers = [scheduler.state_dict() for scheduler in self.runner.param_schedulers]
        state = {
            "epoch": self._epoch,
            "batch": batch,
            "step": self._iter,
            "method": self.model.state_dict(),
            "optimizer": self.runner.optim_wrapper.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "schedulers": [{key: values[key] for key in _SCHEDULER} for values in schedulers],
            "random": random_states,
            "identity": self.identity,
        }
        self.checkpoints.save(state)

    @property
    def _scaler(self) -> GradScaler:
        """Of gradients in fp16; else one that does nothing."""
        scaler = getattr(self.runner.optim_wrapper, "scaler", None)
        return GradScaler(enabled=False) if scaler is None else scaler

    def _resume(self) -> None:
        """Go on from the newest checkpoint where there is one."""
        newest = checkpoint_to_resume(self.checkpoints, None, name=self.name) if self.process.main else None
        path = self.agreement.broadcast(newest)
        if path is None:
            return
        state = read_checkpoint(path, self.identity, anew=f"remove {self.checkpoints.folder}")
        load_weights(path, state, self.model, self.runner.optim_wrapper.optimizer)
        self._scaler.load_state_dict(state["scaler"])
        for scheduler, values in zip(self.runner.param_schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        self._epoch, self._iter, self.first = state["epoch"], state["step"], state["batch"]
        if len(state["random"]) == self.process.world_size:
            set_random_state(state["random"][self.process.rank], self.process.device)
        if self.process.main:
            done = f"step {self._iter:,} of {self._max_iters:,}"
            print(f"{self.name}: going on after {done}, from {path}", flush=True)
