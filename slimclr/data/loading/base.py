"""The base class of the loaders: batches from a resumable position to the end of the epoch."""

import re
from collections.abc import Iterator

from torch import Tensor

from slimclr.data.loading.samplers import TrainingSampler, ValidationSampler
from slimclr.errors import UserError

Batch = tuple[list[Tensor], Tensor]


class Loader:
    """Batches of ([views of (batch, 3, h, w)], labels (batch,)), from the current position to the end of the epoch.

    `state_dict()` is the position: after k batches of an epoch, a loader that loads this state continues with batch k,
    whatever its backend and number of workers.

    Attributes:
        sampler: Which images come in which batch.
        epoch: The current epoch.
        batch: The next batch of that epoch.
    """

    def __init__(self, sampler: TrainingSampler | ValidationSampler):
        self.sampler = sampler
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch; the position is then the beginning of the next one."""
        batches = self._batches(self.epoch, self.batch)
        while (batch := _next(batches)) is not None:
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        raise NotImplementedError


def _next(batches: Iterator[Batch]) -> Batch | None:
    """The next batch, or None at the end; a UserError of a worker process is raised without the worker's traceback."""
    try:
        return next(batches, None)
    except Exception as error:
        told = re.findall(r"UserError: (.+)", str(error))
        raise (UserError(told[-1]) if told else error) from None
