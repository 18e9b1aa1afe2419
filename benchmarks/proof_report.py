"""What the parts of the GPU proof share: results on the disk after every measurement, and the time that is left."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from slimclr.files import write_json


class Skip(Exception):
    """A part cannot run here; the message says why."""


@dataclass
class Report:
    """Collects the results of one part.

    Attributes:
        path: Its JSON file.
        seconds: How long the part may take.
        quick: Small networks, once.
        values: What was measured, by name.
    """

    path: Path
    seconds: float
    quick: bool
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.longest = 0.0

    def left(self) -> float:
        """Seconds left."""
        return self.began + self.seconds - time.monotonic()

    def put(self, name: str, value: Any) -> None:
        """Keep a result; it is on the disk at once."""
        self.values[name] = value
        write_json(self.path, self.values)

    def measure(self, name: str, call: Callable[[], Any], *, needs: float | None = None) -> Any:
        """Keep what `call` gives, or why there is nothing: an error, or no time for what takes as long as the others.

        Returns:
            What `call` gave; None where it failed or was left out.
        """
        needed = self.longest if needs is None else needs
        if self.left() < needed:
            self.put(name, {"not_measured": f"no time left: {self.left():.0f} s, about {needed:.0f} s needed"})
            return None
        start = time.monotonic()
        try:
            value = call()
        except torch.OutOfMemoryError as error:
            value = None
            self.put(name, {"not_measured": f"out of memory: {str(error).splitlines()[0]}"})
        except Skip as error:
            value = None
            self.put(name, {"not_measured": str(error)})
        except Exception as error:
            traceback.print_exc()
            value = None
            self.put(name, {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
        else:
            self.put(name, value)
        self.longest = max(self.longest, time.monotonic() - start)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return value
