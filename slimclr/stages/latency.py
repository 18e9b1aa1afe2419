"""How fast each width of a run is on this machine."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from slimclr import results as documents
from slimclr.exporting.extract import extract
from slimclr.exporting.source import open_source
from slimclr.exporting.timing import Setting, time_widths
from slimclr.files import write_json
from slimclr.progress import progress


def latency(
    weights_or_run: str | Path,
    *,
    out: Path | None = None,
    run: str | None = None,
    widths: Sequence[float] | None = None,
    batches: Sequence[int] = (1, 16),
    engines: Sequence[str] = ("eager",),
    precisions: Sequence[str] = ("fp32",),
    threads: int | None = None,
    repeats: int = 20,
    image_size: int | None = None,
    gpus: int = 0,
    results: Path = Path("results"),
) -> None:
    """Print milliseconds per image and images per second of every width, and write them as JSON.

    The backbones are plain networks with batch norm folded into the convolutions, as they are deployed.

    Args:
        weights_or_run: As for `slimclr.load`, not an exported folder.
        out: metrics.json to write. Its `widths` have `latency_ms` and `images_per_s` of the first engine and precision:
            a single image at a time (the first batch), and the fastest batch.
        run: The run's name in it; None: the weights'.
        widths: Which; None: all that were trained.
        batches: Images of a pass.
        engines: eager, compiled, onnxruntime.
        precisions: fp32, bf16, fp16.
        threads: On the CPU; None: torch's choice.
        repeats: Samples, of which the median counts.
        image_size: Side of the images in pixels; None: the run's.
        gpus: 1: on a GPU.
        results: Folder with pretrain/.

    Raises:
        UserError: No such weights or width; an engine cannot do a precision, or its package is missing.
    """
    started = time.time()
    source = open_source(weights_or_run, results=results)
    chosen = sorted(set(source.backbone.widths if widths is None else widths), reverse=True)
    networks = {width: extract(source.backbone, width, fold=True) for width in chosen}
    size, device = image_size or source.preprocessing.crop, torch.device("cuda" if gpus else "cpu")
    threads = threads or torch.get_num_threads()
    settings = [Setting(e, p, b) for e in engines for p in precisions for b in batches]
    how: dict[str, Any] = {"image_size": size, "threads": threads, "repeats": repeats}
    with progress("latency", len(settings) * len(chosen) * repeats, "samples") as advance:
        measured = time_widths(networks, settings, **how, device=device, advance=advance)
    _show(measured, size=size, threads=threads, device=device)
    if out is not None:
        about: dict[str, Any] = {"run": run or source.run, "seed": None, "recipe": None, "data": None}
        about |= {"weights_sha256": source.sha256, "started": started, "arch": source.backbone.arch}
        widths_of: dict[str, Any] = {"widths": _of_first(measured, settings), "measured": measured}
        write_json(out, documents.document("latency", **about, **how, **widths_of))


def _of_first(measured: Sequence[dict[str, Any]], settings: Sequence[Setting]) -> dict[str, dict[str, Any]]:
    """What the report shows of each width: the first engine and precision."""
    first = settings[0]
    values: dict[str, dict[str, Any]] = {}
    for row in measured:
        if (row["engine"], row["precision"]) == (first.engine, first.precision):
            about = values.setdefault(str(row["width"]), {"images_per_s": 0.0})
            if row["batch"] == first.batch:
                about |= {f"latency_{name}": row[name] for name in ("ms", "ms_low", "ms_high")}
            about["images_per_s"] = max(about["images_per_s"], row["images_per_s"])
    return values


def _show(measured: Sequence[dict[str, Any]], *, size: int, threads: int, device: torch.device) -> None:
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} threads"
    print(f"milliseconds per image of {size} px (median, quartiles), {where}")
    print(f"{'engine':<12}{'precision':<10}{'batch':>6}{'width':>7}{'ms':>10}{'quartiles':>22}{'images/s':>11}")
    for row in measured:
        spread = f"{row['ms_low']:.3f} to {row['ms_high']:.3f}"
        print(
            f"{row['engine']:<12}{row['precision']:<10}{row['batch']:>6}{row['width']:>7}{row['ms']:>10.3f}"
            f"{spread:>22}{row['images_per_s']:>11,.1f}"
        )
