"""What the processes that train together agree on beside gradients: to stop, to save, what each of them holds."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from slimclr.engine.distributed import Processes


@dataclass(frozen=True)
class Wishes:
    """What a process, or any of several, wants after a step.

    Attributes:
        stop: To stop, with a checkpoint.
        save: To write a checkpoint.
        not_finite: To stop without one, as a loss or gradient is not finite.
    """

    stop: bool = False
    save: bool = False
    not_finite: bool = False

    def __or__(self, other: "Wishes") -> "Wishes":
        return Wishes(self.stop or other.stop, self.save or other.save, self.not_finite or other.not_finite)

    def __bool__(self) -> bool:
        return self.stop or self.save or self.not_finite


class Agreement:
    """Lets all processes do the same at the same step.

    Processes tell each other their wishes by an all-reduce over gloo on the CPU, so that no GPU is waited for. It is
    asynchronous: each step starts one and reads that of the step before. A wish is met one step later, by all
    processes at once. A process alone meets its own wishes at once.

    Several processes make this at the same time, and all call each method at the same step.

    Args:
        where: This process.
    """

    def __init__(self, where: Processes):
        self._where = where
        self._group = dist.new_group(backend="gloo", timeout=timedelta(hours=1)) if where.world > 1 else None
        # The all-reduce that the step before started; None where that step waited for all instead.
        self._started: _AllReduce | None = None

    def agree(self, wishes: Wishes, *, wait: bool, settle: Callable[[], bool]) -> Wishes:
        """What any process wishes.

        Args:
            wishes: This process's after the step.
            wait: Wait for the wishes of all processes after this very step, as at the end of an epoch. It also waits
                where anybody had a wish after the step before, since a checkpoint may follow: none is written of a step
                whose numbers nobody has looked at.
            settle: Looks at the numbers that are still on their way, and says whether any is not finite. Called only
                where this waits.
        """
        agreed = self._of_last_step(wishes)
        if wait or agreed:
            return agreed | self._now(replace(wishes, not_finite=settle()))
        if self._where.world > 1:
            self._started = _AllReduce(wishes, self._group)
        return agreed

    def broadcast(self, value: Any) -> Any:
        """The first process's value, for all of them."""
        if self._where.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, self._group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self._where.world == 1:
            return [value]
        values = [None] * self._where.world
        dist.all_gather_object(values, value, self._group)
        return values

    def _of_last_step(self, own: Wishes) -> Wishes:
        if self._where.world == 1:
            return own
        started, self._started = self._started, None
        return Wishes() if started is None else started.wait()

    def _now(self, own: Wishes) -> Wishes:
        return own if self._where.world == 1 else _AllReduce(own, self._group).wait()


class _AllReduce:
    """Starts to collect the wishes of all processes."""

    def __init__(self, wishes: Wishes, group: dist.ProcessGroup | None):
        self._flags = torch.tensor(astuple(wishes), dtype=torch.uint8)
        self._work = dist.all_reduce(self._flags, dist.ReduceOp.MAX, group, async_op=True)

    def wait(self) -> Wishes:
        """Until they have arrived: what any process wishes."""
        self._work.wait()
        return Wishes(*self._flags.bool().tolist())
