"""A forecast as a table or as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from slimclr.plan.forecast import Forecast
from slimclr.plan.jobs import JobForecast
from slimclr.plan.rates import Rates

_COLUMNS = ("stage", "jobs", "GPU-hours", "CPU-hours", "begins after", "wall", "requeues", "disk", "memory", "on GPU")


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


def print_json(forecast: Forecast, rates: Rates, notes: Sequence[str], facts: dict[str, Any]) -> None:
    """Print everything, for other programs; `facts` tell what it was made for: config, profile, machine."""
    names = ("stage", "seconds", "gpu_hours", "cpu_hours", "requeues", "disk_gb", "memory_gb", "gpu_memory_gb")
    jobs = [
        {"job": entry.job.name, "needs": list(entry.job.needs), "done": entry.job.done, "gpus": entry.job.gpus}
        | {"begin_s": entry.begin, "end_s": entry.end}
        | {name: getattr(entry, name) for name in names}
        for entry in forecast.jobs
    ]
    totals = {name: _total(forecast.jobs, name) for name in ("gpu_hours", "cpu_hours", "requeues", "disk_gb")}
    without = [entry.job.name for entry in forecast.jobs if entry.disk_gb is None]
    document = {"schema": 1} | facts | {"jobs": jobs, "warnings": forecast.warnings, "notes": list(notes)}
    document["totals"] = {"jobs": len(jobs), "wall_s": forecast.seconds, **totals}
    document["totals"] |= {"without_time": forecast.unknown, "without_disk": without}
    document["rates"] = rates.model_dump(mode="json", exclude_none=True)
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(forecast: Forecast, notes: Sequence[str], heading: str) -> None:
    """Print a line per job, grouped by stage, totals, notes and warnings."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:  # nobody wants a pipe's lines wrapped
        console = Console(highlight=False, width=160)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=None)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for stage in dict.fromkeys(entry.stage for entry in sorted(forecast.jobs, key=lambda entry: entry.begin)):
        entries = [entry for entry in forecast.jobs if entry.stage == stage]
        table.add_row(*_row(stage, entries), style="bold")
        for entry in entries if len(entries) > 1 else ():
            name = entry.job.name.partition(" ")[2] or entry.job.rule
            table.add_row(*_row(f"  {name}{' (done)' if entry.job.done else ''}", [entry], count=False))
    table.add_section()
    table.add_row(*_row("total", forecast.jobs, wall=forecast.seconds), style="bold")
    console.print(Text(heading), soft_wrap=True)
    console.print(table)
    missing = forecast.unknown
    if missing:
        others = f" and {len(missing) - 4} others" if len(missing) > 4 else ""
        console.print(f"times: without {', '.join(missing[:4])}{others}, of which nothing is known")
    for line in (*map(Text, notes), *(Text.assemble(("warning  ", "yellow"), text) for text in forecast.warnings)):
        console.print(line, soft_wrap=True)


def _row(name: str, entries: Sequence[JobForecast], *, count: bool = True, wall: float | None = None) -> list[str]:
    known = [entry for entry in entries if entry.seconds is not None]
    begin, gpus = min(entry.begin for entry in entries), any(entry.job.gpus for entry in entries)
    return [
        name,
        str(len(entries)) if count else "",
        _hours(_total(entries, "gpu_hours"), known) if gpus else "-",
        _hours(_total(entries, "cpu_hours"), known),
        "" if name == "total" else duration(begin),
        duration(max(entry.end for entry in known) - begin if wall is None and known else wall),
        str(sum(entry.requeues for entry in entries)) if known else "unknown",
        size(_total(entries, "disk_gb")) if any(entry.disk_gb is not None for entry in entries) else "unknown",
        size(max((entry.memory_gb for entry in entries if entry.memory_gb is not None), default=None)),
        size(max((entry.gpu_memory_gb or 0.0 for entry in entries), default=0.0) or None) if gpus else "-",
    ]


def _hours(value: float, known: Sequence[JobForecast]) -> str:
    if not known:
        return "unknown"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _total(entries: Sequence[JobForecast], name: str) -> float:
    return sum(value for value in (getattr(entry, name) for entry in entries) if value is not None)
