"""The meter: averages losses, accuracies and gradient norms over steps, and writes them as a record."""

import resource
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from slimclr.engine.records import Records
from slimclr.methods.base import Output
from slimclr.progress import DataWait


def batch_losses(output: Output) -> Tensor:
    """What a record says of a batch: its loss, and loss and accuracy by width (n,), detached, on the device."""
    parts = (part for result in output.widths.values() for part in (result.loss, result.accuracy))
    return torch.stack([part.detach().float() for part in (output.loss, *parts)])


class Meter:
    """Losses and gradient norms since the last record, images, and seconds of waiting for data.

    Losses and norms stay on the device until a record reads them all at once: reading each would wait for the GPU
    every time. They are part of a checkpoint, so that the next record of a resumed run is that of an uninterrupted
    one.

    Args:
        device: Where losses and norms are computed.

    Attributes:
        gradients: Gradient record for the next record; empty for none.
        note: What the last record said, for the progress; empty before the first.
    """

    def __init__(self, device: torch.device):
        self.gradients: dict[str, Any] = {}
        self.note = ""
        self._device = device
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._wait = DataWait()
        self._restart()

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of an epoch; the time until each arrives counts as waiting for data."""
        self._restart()
        return self._wait.timed(loader)

    def add(self, losses: Sequence[Tensor], norm: Tensor, *, images: int) -> None:
        """Add a step.

        Args:
            losses: `batch_losses` of each of its batches.
            norm: Its gradient norm before clipping, a scalar.
            images: Its images over all processes.
        """
        self._losses += losses
        self._norms.append(norm)
        self._images += images

    def write(self, records: Records | None, *, step: int, epoch: float, lr: float, widths: Sequence[float]) -> None:
        """Write a record of the steps since the last one, and reset the meter.

        Args:
            records: Where to; None on processes that write none.
            step: Steps taken.
            epoch: Fractional epoch.
            lr: Learning rate of the last step.
            widths: Widths that trained since the last record, in the order of their losses.
        """
        seconds, waited = self._wait.seconds, self._wait.share
        if records is not None:
            values = {"step": step, "epoch": round(epoch, 4), "lr": lr} | self._means(widths)
            values |= {
                "images_per_s": round(self._images / seconds, 1),
                "data_wait": round(waited, 4),
                "memory_mb": peak_memory_mb(self._device),
            }
            self.note = _note(values, self._images / seconds, waited)
            records.write(values | ({"gradients": self.gradients} if self.gradients else {}))
        self._losses, self._norms, self.gradients = [], [], {}
        self._restart()

    def state_dict(self) -> dict[str, list[Tensor]]:
        """What came since the last record."""
        return {"losses": self._losses, "norms": self._norms}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Continue from a `state_dict`."""
        self._losses = [losses.to(self._device) for losses in state["losses"]]
        self._norms = [norm.to(self._device) for norm in state["norms"]]

    def _restart(self) -> None:
        self._wait.restart()
        self._images = 0

    def _means(self, widths: Sequence[float]) -> dict[str, Any]:
        losses = torch.stack(self._losses).double().mean(0)
        norm = torch.stack(self._norms).double().mean(0, keepdim=True)
        loss, *rest, gradient_norm = torch.cat([losses, norm]).tolist()
        per_width = {
            str(width): {"loss": own, "accuracy": 100 * accuracy}
            for width, own, accuracy in zip(widths, rest[::2], rest[1::2], strict=True)
        }
        return {"loss": loss, "gradient_norm": gradient_norm, "widths": per_width}


def peak_memory_mb(device: torch.device) -> int:
    """Greatest memory so far in MB: the GPU's, or this process's without one."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def _note(values: dict[str, Any], images_per_s: float, data_wait: float) -> str:
    each = "".join(f", {width}: {own['loss']:.4g} ({own['accuracy']:.0f} %)" for width, own in values["widths"].items())
    return (
        f"loss {values['loss']:.4g}{each}, lr {values['lr']:.3g}, {images_per_s:,.0f} images/s, waiting for data "
        f"{100 * data_wait:.0f} % of the time, {values['memory_mb'] / 1000:.1f} GB"
    )
