"""What the report lets in from files: texts, numbers, widths and times, each refused or made harmless once."""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from slimclr.errors import printable

# The largest number of fp32, in which losses are computed.
_LARGEST = 3.4028235e38
# Metric -> least and greatest value; every other one is any number of fp32.
_INTERVALS = ("top1_low", "top1_high", "top5_low", "top5_high")
_PERCENT = dict.fromkeys((*_INTERVALS, "top1", "top5", "accuracy"), (0.0, 100.0))
_ALSO_PERCENT = re.compile("(knn|ridge|logistic)_top[15]|(box|mask)_ap")
_LIMITS = {
    **_PERCENT,
    "params": (1.0, 1e15),
    "macs": (1.0, 1e18),
    "latency_ms": (1e-6, 1e9),
    "images_per_s": (1e-6, 1e9),
}


def check_figure(metric: str, value: Any, where: str = "") -> None:
    """Refuse a figure that a metric cannot have.

    Raises:
        ValueError: Not a number, not finite, or beyond the metric's limits.
    """
    least, greatest = _LIMITS.get(metric, (-_LARGEST, _LARGEST))
    if _ALSO_PERCENT.match(metric):
        least, greatest = 0.0, 100.0
    if not is_number(value) or not least <= value <= greatest:
        raise ValueError(f"{where}{metric} must be a number from {least:g} to {greatest:g}, but it is {_short(value)}")


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _width(text: str) -> str:
    """A width multiplier as files spell it: `str(float)` of a number above 0 that is at most 1."""
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not 0 < width <= 1 or str(width) != text:
        raise ValueError(f'{_short(text)} is not a width; write it as "1.0" or "0.25"')
    return text


def _time(text: str) -> str:
    """A time with its zone as ISO 8601, to the second, in UTC; empty stays empty."""
    try:
        return text and _in_utc(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{_short(text)} is not a time with its zone, as 2026-01-02T03:04:05+00:00 is") from None


def _in_utc(text: str) -> str:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("no zone")
    return time.astimezone(UTC).isoformat(timespec="seconds")


Text = Annotated[str, Field(max_length=1000), AfterValidator(printable)]

Width = Annotated[str, AfterValidator(_width)]

Time = Annotated[str, AfterValidator(_time)]

SHA256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

Loss = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]

Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, as `where: what, but it is value`."""
    fault = error.errors()[0]
    where = ".".join(printable(str(part))[:80] for part in fault["loc"] if part != "[key]")
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] not in ("value_error", "missing", "json_invalid", "extra_forbidden"):
        what += f", but it is {_short(fault['input'])}"
    return f"{where}: {what}" if where else what


def _short(value: Any) -> str:
    """A value as a message shows it; of a long or nested one only what it is."""
    if not isinstance(value, str | int | float | bool | None):
        return f"a {type(value).__name__}"
    # Python does not write a whole number of thousands of digits.
    text = "a huge number" if isinstance(value, int) and abs(value) > _LARGEST else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
