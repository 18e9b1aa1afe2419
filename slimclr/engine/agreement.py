"""What the processes that train together agree on, beside the gradients: when to stop and when to save."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from slimclr.engine.distributed import Process


@dataclass(frozen=True)
class Flags:
    """What one process asks for after a step, or any of several processes.

    Attributes:
        stop: Stop, with a checkpoint.
        save: Write a checkpoint.
        not_finite: Stop without a checkpoint, as a loss or gradient is not finite.
    """

    stop: bool = False
    save: bool = False
    not_finite: bool = False

    def __or__(self, other: "Flags") -> "Flags":
        return Flags(self.stop or other.stop, self.save or other.save, self.not_finite or other.not_finite)

    def __bool__(self) -> bool:
        return self.stop or self.save or self.not_finite


class Agreement:
    """Makes all processes act at the same step.

    The flags of all processes are combined by an all-reduce over gloo on the CPU, so that no process waits for its GPU.
    The all-reduce is asynchronous: each step starts one and reads the result of the step before. All processes
    therefore act one step after a flag was set. A single process acts at once.

    All processes create this object together, and call each method at the same step.

    Args:
        process: This process.
    """

    def __init__(self, process: Process):
        self._process = process
        self._group = dist.new_group(backend="gloo", timeout=timedelta(hours=1)) if process.world_size > 1 else None
        # The all-reduce that the last step started; None if that step waited for its result.
        self._started: _AllReduce | None = None

    def all_reduce(self, flags: Flags, *, wait: bool, check_pending: Callable[[], bool]) -> Flags:
        """The flags that any process has set.

        Args:
            flags: This process's flags after the step.
            wait: Wait for the flags of this very step, as at the end of an epoch. The method also waits if a process
                had set a flag at the step before: a checkpoint may follow, and none is written before the finite check
                of its step.
            check_pending: Finishes the finite check of numbers that are still on the GPU; true if any is not finite.
                Called only if this method waits.
        """
        reduced = self._of_last_step(flags)
        if wait or reduced:
            return reduced | self._now(replace(flags, not_finite=check_pending()))
        if self._process.world_size > 1:
            self._started = _AllReduce(flags, self._group)
        return reduced

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on all processes."""
        if self._process.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, self._group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self._process.world_size == 1:
            return [value]
        values = [None] * self._process.world_size
        dist.all_gather_object(values, value, self._group)
        return values

    def _of_last_step(self, own: Flags) -> Flags:
        if self._process.world_size == 1:
            return own
        started, self._started = self._started, None
        return Flags() if started is None else started.wait()

    def _now(self, own: Flags) -> Flags:
        return own if self._process.world_size == 1 else _AllReduce(own, self._group).wait()


class _AllReduce:
    """An all-reduce of flags, started when it is created."""

    def __init__(self, flags: Flags, group: dist.ProcessGroup | None):
        self._flags = torch.tensor(astuple(flags), dtype=torch.uint8)
        self._work = dist.all_reduce(self._flags, dist.ReduceOp.MAX, group, async_op=True)

    def wait(self) -> Flags:
        """Wait for the result: the flags that any process has set."""
        self._work.wait()
        return Flags(*self._flags.bool().tolist())
