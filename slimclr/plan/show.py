"""A forecast as a table or as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from slimclr.plan.forecast import Forecast, JobForecast
from slimclr.plan.rates import Rates

_COLUMNS = (
    "stage",
    "jobs",
    "GPU-hours",
    "CPU-hours",
    "begins after",
    "wall",
    "requeues",
    "disk",
    "memory",
    "GPU memory",
)


def duration(seconds: float | None) -> str:
    """Seconds in the unit that says most."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} d"


def size(gigabytes: float | None) -> str:
    """Gigabytes (10^9 bytes), or megabytes where that says more."""
    if gigabytes is None:
        return "unknown"
    return f"{gigabytes:,.1f} GB" if gigabytes >= 1 else f"{1e3 * gigabytes:,.0f} MB"


def document(forecast: Forecast, rates: Rates, notes: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything, for other programs.

    Args:
        forecast: The forecast.
        rates: What it follows from.
        notes: What was measured, stated or left out.
        facts: What it was made for: config, profile, machine.
    """
    jobs = [
        {
            "job": entry.job.name,
            "stage": entry.stage,
            "needs": list(entry.job.needs),
            "done": entry.job.done,
            "seconds": entry.seconds,
            "begin_s": entry.begin,
            "end_s": entry.end,
            "gpus": entry.job.gpus,
            "gpu_hours": entry.gpu_hours,
            "cpu_hours": entry.cpu_hours,
            "requeues": entry.requeues,
            "disk_gb": entry.disk_gb,
            "memory_gb": entry.memory_gb,
            "gpu_memory_gb": entry.gpu_memory_gb,
        }
        for entry in forecast.jobs
    ]
    totals = {
        "jobs": len(forecast.jobs),
        "wall_s": forecast.seconds,
        "gpu_hours": _total(forecast.jobs, "gpu_hours"),
        "cpu_hours": _total(forecast.jobs, "cpu_hours"),
        "requeues": sum(entry.requeues for entry in forecast.jobs),
        "disk_gb": _total(forecast.jobs, "disk_gb"),
        "without_time": forecast.unknown,
        "without_disk": [entry.job.name for entry in forecast.jobs if entry.disk_gb is None],
    }
    own = rates.model_dump(mode="json", exclude_none=True)
    return {
        "schema": 1,
        **facts,
        "totals": totals,
        "jobs": jobs,
        "warnings": forecast.warnings,
        "notes": list(notes),
        "rates": own,
    }


def print_json(value: dict[str, Any]) -> None:
    """Print a document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(forecast: Forecast, notes: Sequence[str], heading: str) -> None:
    """Print a line per job, grouped by stage, totals, notes and warnings."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        # Nobody wants a pipe's lines wrapped.
        console = Console(highlight=False, width=160)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=None)
    gpus = any(entry.job.gpus for entry in forecast.jobs)
    shown = [place for place, name in enumerate(_COLUMNS) if gpus or "GPU" not in name]
    for place in shown:
        table.add_column(_COLUMNS[place], justify="left" if place == 0 else "right", no_wrap=True)

    def add(cells: Sequence[str], style: str = "") -> None:
        table.add_row(*(cells[place] for place in shown), style=style)

    for stage in dict.fromkeys(entry.stage for entry in sorted(forecast.jobs, key=lambda entry: entry.begin)):
        entries = [entry for entry in forecast.jobs if entry.stage == stage]
        add(_row(stage, entries), "bold")
        if len(entries) > 1:
            for entry in entries:
                name = entry.job.name.partition(" ")[2] or entry.job.rule
                add(_row(f"  {name}{' (done)' if entry.job.done else ''}", [entry], count=False))
    table.add_section()
    add(_row("total", forecast.jobs, wall=forecast.seconds), "bold")
    console.print(Text(heading), soft_wrap=True)
    console.print(table)
    missing = forecast.unknown
    if missing:
        console.print(f"times: without {_listed(missing)}, which {'are' if len(missing) > 1 else 'is'} unknown")
    for note in notes:
        console.print(Text(note), soft_wrap=True)
    for warning in forecast.warnings:
        console.print(Text.assemble(("warning  ", "yellow"), warning), soft_wrap=True)


def _row(name: str, entries: Sequence[JobForecast], *, count: bool = True, wall: float | None = None) -> list[str]:
    known = [entry for entry in entries if entry.seconds is not None]
    gpu_hours, cpu_hours = _total(entries, "gpu_hours"), _total(entries, "cpu_hours")
    if wall is None and known:
        wall = _busy(known)
    begin = min(entry.begin for entry in entries)
    return [
        name,
        str(len(entries)) if count else "",
        _hours(gpu_hours, known) if any(entry.job.gpus for entry in entries) else "-",
        _hours(cpu_hours, known),
        "" if name == "total" else duration(begin),
        duration(wall),
        str(sum(entry.requeues for entry in entries)) if known else "unknown",
        size(_total(entries, "disk_gb")) if any(entry.disk_gb is not None for entry in entries) else "unknown",
        size(_most(entries, "memory_gb")),
        size(_most(entries, "gpu_memory_gb")) if any(entry.job.gpus for entry in entries) else "-",
    ]


def _hours(value: float, known: Sequence[JobForecast]) -> str:
    if not known:
        return "unknown"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _busy(entries: Sequence[JobForecast]) -> float:
    """Seconds in which at least one of them runs."""
    total, until = 0.0, 0.0
    for entry in sorted(entries, key=lambda entry: entry.begin):
        total += max(0.0, entry.end - max(until, entry.begin))
        until = max(until, entry.end)
    return total


def _total(entries: Sequence[JobForecast], name: str) -> float:
    return sum(value for value in (getattr(entry, name) for entry in entries) if value is not None)


def _most(entries: Sequence[JobForecast], name: str) -> float | None:
    return max((value for value in (getattr(entry, name) for entry in entries) if value is not None), default=None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} others" if len(names) > 4 else "")
