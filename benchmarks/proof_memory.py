"""The part of the GPU proof that measures memory: of a step, by method, and of each width, per image."""

from functools import partial
from typing import Any

import torch

from benchmarks.bench_step import WIDTHS, Step
from benchmarks.method_steps import METHODS, method_of, our_step
from benchmarks.proof_report import Report
from slimclr.nn import SlimmableResNet


def memory_part(report: Report) -> None:
    """`rows` is what `slimclr recipe` reads: copy the file to benchmarks/results/gpu-memory-<GPU>-<date>.json."""
    gpu = report.device.type == "cuda"
    report.put("device", torch.cuda.get_device_name() if gpu else None)
    total = torch.cuda.get_device_properties(report.device).total_memory if gpu else 0
    report.put("device_gb", round(total / 1e9, 2) or None)
    report.put("rows", [])
    # The paper's precision first, then the other one.
    kinds = [(precision, name, again) for precision in ("fp16", "bf16") for again in (False, True) for name in METHODS]
    for precision, name, again in kinds[8:10] if report.quick else kinds:
        found = report.measure(
            "_".join((name, precision, *(["recomputed"] if again else []))),
            partial(of_method, report, name, precision, again),
        )
        if found and found["gb_per_image"] is not None:
            report.put("rows", [*report.values["rows"], found])
    for width in WIDTHS[-1:] if report.quick else WIDTHS:
        report.measure(f"width_{width}_bf16", partial(of_width, report, width), needs=1)
    if not gpu:
        report.put("gb", {"not_measured": "no GPU here: only tried whether it runs"})


def of_method(report: Report, name: str, precision: str, again: bool) -> dict[str, Any]:
    """A training step of all widths; `again`: with activation checkpointing."""
    quick, side = report.quick, 32 if report.quick else 224

    def step(batch: int) -> Step:
        backbone = _network(quick)
        backbone.checkpointing = again
        method = method_of(name, backbone, queue=64 if quick else 65536, hidden=64 if quick else 4096)
        views = [torch.randn(batch, 3, side, side) for _ in range(2)]
        return our_step(name, method, views, report.device, precision)

    row = {"method": name, "arch": _network(quick).arch, "widths": WIDTHS, "precision": precision}
    return row | {"image_size": side, "activation_checkpointing": again} | _line(report, step)


def of_width(report: Report, width: float) -> dict[str, Any]:
    """Forwards and backwards of one width of the backbone, bf16."""
    side = 32 if report.quick else 224

    def step(batch: int) -> Step:
        backbone = _network(report.quick).to(report.device, memory_format=torch.channels_last)
        images = torch.randn(batch, 3, side, side, device=report.device).to(memory_format=torch.channels_last)

        def run() -> None:
            backbone.zero_grad(set_to_none=True)
            with torch.autocast(report.device.type, torch.bfloat16):
                backbone(images, width).square().mean().backward()

        return run

    return _line(report, step)


def _network(quick: bool) -> SlimmableResNet:
    return SlimmableResNet(14, 16, WIDTHS) if quick else SlimmableResNet(50, 64, WIDTHS)


def _line(report: Report, step: Any) -> dict[str, Any]:
    """Greatest memory with two sizes of a batch, and the line through them."""
    batches = (2, 4) if report.quick else (64, 128)
    gb = []
    for batch in batches:
        run = step(batch)
        for _ in range(2):
            run()
        if report.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            run()
            gb.append(torch.cuda.max_memory_allocated() / 1e9)
            del run
            torch.cuda.empty_cache()
    if not gb:
        return {"gb_per_image": None, "gb_beside": None}
    per_image = (gb[1] - gb[0]) / (batches[1] - batches[0])
    told = {"gb_per_image": round(per_image, 5), "gb_beside": round(gb[0] - batches[0] * per_image, 3)}
    return told | {"batches": batches, "gb": [round(value, 3) for value in gb]}
