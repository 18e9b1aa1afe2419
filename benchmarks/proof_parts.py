"""The parts of the GPU proof; `gpu_proof` runs each in a process of its own."""

import copy
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import bench_frozen, proof_memory, proof_training
from benchmarks.bench_step import WIDTHS, Step, matrix_rate
from benchmarks.method_steps import METHODS, method_of, our_step, plain_step, torchvision_step
from benchmarks.proof_report import Report, Skip
from benchmarks.timing import machine, timed
from slimclr.nn import SlimmableResNet
from slimclr.nn.counts import count_macs
from slimclr.nn.inference import FrozenBackbone

ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def network(quick: bool, widths: tuple[float, ...] = WIDTHS) -> SlimmableResNet:
    """ResNet-50, or a small one."""
    return SlimmableResNet(14, 16, widths) if quick else SlimmableResNet(50, 64, widths)


def sizes(quick: bool) -> dict[str, int]:
    """Of queue and hidden layer."""
    return {"queue": 64, "hidden": 64} if quick else {"queue": 65536, "hidden": 4096}


def two_views(quick: bool, batch: int | None = None) -> list[Tensor]:
    """Two views of a batch; the paper's 256 images of 224 px per GPU, or few small ones."""
    side, images = (32, batch or 4) if quick else (224, batch or 256)
    return [torch.randn(images, 3, side, side) for _ in range(2)]


def bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy within the memory, each byte read and written."""
    source = torch.empty((1 << 24) if device.type == "cpu" else 1 << 29, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = statistics.median(timed(lambda: target.copy_(source), device) for _ in range(7))
    return 2 * source.nbytes / seconds


def traffic(backbone: SlimmableResNet, image_size: int, item: int) -> dict[float, int]:
    """Bytes of one image's forward pass by width, when each layer reads its input and writes its output once."""
    meta, counted = copy.deepcopy(backbone).to("meta"), {}

    def count(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        counted[width] += (inputs[0].numel() + output.numel()) * item

    for module in meta.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(count)
    for width in backbone.widths:
        counted[width] = 0
        with torch.no_grad():
            meta(torch.empty(2, 3, image_size, image_size, device="meta"), width)
        counted[width] //= 2
    return counted


def machine_part(report: Report) -> None:
    """The GPU, and how fast it can be."""
    report.put("machine", machine(report.device))
    if report.device.type == "cuda":
        properties = torch.cuda.get_device_properties(report.device)
        cuda = {
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"{properties.major}.{properties.minor}",
        }
        report.put("gpu", cuda | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()})
    for precision in ("fp32", "bf16") if report.device.type == "cpu" else ("fp32", "fp16", "bf16"):
        report.measure(f"multiply_adds_per_s_{precision}", partial(matrix_rate, report.device, precision), needs=1)
    report.measure("bytes_per_s", partial(bandwidth, report.device), needs=1)


def tests_part(report: Report) -> None:
    """The tests marked `gpu`."""
    if report.device.type != "cuda":
        raise Skip("torch sees no GPU here; every test marked gpu would be skipped")
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest is not installed here; carry it, or run make test-gpu")
    plugin = [] if importlib.util.find_spec("pytest_timeout") else ["-o", "timeout="]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-p", "no:cacheprovider", *plugin]
    done = subprocess.run(command, capture_output=True, text=True, timeout=report.left())
    print(done.stdout, done.stderr)
    lines = done.stdout.strip().splitlines()
    report.put("pytest", {"exit_code": done.returncode, "said": lines[-1] if lines else done.stderr[-500:]})
    if done.returncode:
        raise SystemExit(lines[-1] if lines else "pytest said nothing")


def seconds_of(step: Step, report: Report, *, warm: int = 5, repeats: int = 7) -> dict[str, Any]:
    """Seconds of a step, and the most memory that it takes."""
    gpu = report.device.type == "cuda"
    warm, repeats = (1, 1) if report.quick else (warm, repeats)
    for _ in range(warm):
        step()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = [timed(step, report.device) for _ in range(repeats)]
    told = {"seconds": round(statistics.median(seconds), 5), "seconds_spread": [min(seconds), max(seconds)]}
    return told | ({"memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if gpu else {})


def steps_part(report: Report, name: str) -> None:
    """A training step of a method in both precisions: ours, plain, and around torchvision's network."""
    torch.backends.cudnn.benchmark = True
    views, own = two_views(report.quick), sizes(report.quick)
    batch, side, depth = len(views[0]), views[0].shape[-1], 14 if report.quick else 50
    backbone = network(report.quick)
    macs = {width: count_macs(backbone, width, image_size=side) for width in WIDTHS}
    passes = 1 if name == "mocov2" else 2
    keys = {"mocov2": 1, "mocov3": 2, "simclr": 0}[name]
    # A query is computed forwards and backwards, which is three times its multiply-adds, a key only forwards.
    multiply_adds = batch * (3 * passes * sum(macs.values()) + keys * macs[1.0])
    rate_of_copy = bandwidth(report.device)
    report.put("what", {"batch": batch, "image_size": side, "network": backbone.arch, "widths": WIDTHS})
    report.put("multiply_adds_per_step", multiply_adds)
    # In half precision a CPU has no fast kernels; there, one precision shows that it runs.
    for precision in ("bf16",) if report.quick else ("bf16", "fp16"):
        moved = traffic(backbone, side, ITEM_BYTES[precision])
        bytes_moved = batch * (3 * passes * sum(moved.values()) + keys * moved[1.0])
        rate = matrix_rate(report.device, precision)

        def ours(widths: tuple[float, ...] = WIDTHS, precision: str = precision) -> dict[str, Any]:
            method = method_of(name, network(report.quick, widths), **own)
            return seconds_of(our_step(name, method, views, report.device, precision), report)

        def plain(precision: str = precision) -> dict[str, Any]:
            method = method_of(name, network(report.quick), **own)
            return seconds_of(plain_step(name, method, views, report.device, precision), report, warm=3, repeats=5)

        def direct(precision: str = precision) -> dict[str, Any]:
            return seconds_of(torchvision_step(name, depth, views, report.device, precision, **own), report)

        found = report.measure(f"ours_{precision}", ours)
        if found:
            found["images_per_s"] = round(batch / found["seconds"], 1)
            found["share_of_matrix_rate"] = round(multiply_adds / found["seconds"] / rate, 3)
            # Beside convolutions and batch norms of the backbone nothing is counted, so the true share is higher.
            found["share_of_bandwidth_at_least"] = round(bytes_moved / found["seconds"] / rate_of_copy, 3)
            report.put(f"ours_{precision}", found)
        ways = {
            "plain": report.measure(f"plain_{precision}", plain),
            "ours_one_width": report.measure(f"ours_one_width_{precision}", partial(ours, (1.0,))),
            "torchvision": report.measure(f"torchvision_{precision}", direct),
        }
        ratios = {}
        if found and ways["plain"]:
            ratios["faster_than_plain"] = round(ways["plain"]["seconds"] / found["seconds"], 3)
        if ways["ours_one_width"] and ways["torchvision"]:
            one, two = ways["ours_one_width"]["seconds"], ways["torchvision"]["seconds"]
            ratios["one_width_over_torchvision"] = round(one / two, 3)
        report.put(f"ratios_{precision}", ratios)


def compiled_part(report: Report) -> None:
    """MoCo v2's step, bf16, through torch.compile and without."""
    if report.quick and report.device.type == "cpu":
        raise Skip("torch.compile takes minutes on a CPU")
    torch.backends.cudnn.benchmark = True
    views = two_views(report.quick)
    for name, compiled in (("eager", False), ("compiled", True)):
        method = method_of("mocov2", network(report.quick), **sizes(report.quick))
        step = our_step("mocov2", method, views, report.device, "bf16", compiled=compiled)
        report.measure(f"first_step_{name}_s", partial(timed, step, report.device), needs=1)
        report.measure(name, partial(seconds_of, step, report), needs=1)


def graphs_part(report: Report) -> None:
    """Which methods' whole step can be captured as a CUDA graph, and how fast it is replayed."""
    if report.device.type != "cuda":
        raise Skip("CUDA graphs need a GPU")
    views = two_views(report.quick)
    for name in ("simclr", "mocov3", "mocov2"):

        def graphed(name: str = name) -> dict[str, Any]:
            step = our_step(
                name, method_of(name, network(report.quick), **sizes(report.quick)), views, report.device, "bf16"
            )
            eager = seconds_of(step, report)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    step()
            except RuntimeError as error:
                raise Skip(f"cannot be captured: {str(error).splitlines()[0]}") from error
            return {"eager": eager, "replayed": seconds_of(graph.replay, report)}

        if report.measure(name, graphed) is None:
            return  # a failed capture leaves the process's CUDA unusable


def profile_part(report: Report) -> None:
    """Where the time of a step of MoCo v2 goes, by kernel."""
    from torch.profiler import ProfilerActivity, profile

    views, gpu = two_views(report.quick), report.device.type == "cuda"
    method = method_of("mocov2", network(report.quick), **sizes(report.quick))
    step = our_step("mocov2", method, views, report.device, "bf16")
    for _ in range(1 if report.quick else 5):
        step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as profiled:
        for _ in range(1 if report.quick else 3):
            step()
        if gpu:
            torch.cuda.synchronize()
    averages = profiled.key_averages()
    key = "self_device_time_total" if gpu else "self_cpu_time_total"
    (report.path.parent / "profile.txt").write_text(averages.table(sort_by=key, row_limit=40, max_name_column_width=90))
    total = sum(getattr(event, key) for event in averages) or 1
    greatest = sorted(averages, key=lambda event: -getattr(event, key))[:20]
    rows = [
        {"kernel": event.key, "share": round(getattr(event, key) / total, 4), "calls": event.count}
        for event in greatest
    ]
    report.put("by_kernel", rows)


def frozen_part(report: Report) -> None:
    """Images per second of every frozen width, as evaluation computes features, against the module in eval mode."""
    torch.backends.cudnn.benchmark = True
    backbone = bench_frozen.network(14 if report.quick else 50).to(report.device)
    images = torch.randn(
        4 if report.quick else 256, 3, *((32, 32) if report.quick else (224, 224)), device=report.device
    )
    for precision in ("fp32",) if report.quick else ("fp16", "bf16", "fp32"):
        frozen = FrozenBackbone(backbone, report.device, precision=precision)
        eager = bench_frozen.eager(backbone, images, precision)

        def rates(frozen: FrozenBackbone = frozen, eager: Callable[[], Any] = eager) -> dict[str, Any]:
            ways: dict[str, Callable[[], Any]] = {str(width): partial(frozen, images, (width,)) for width in WIDTHS}
            ways |= {"all": partial(frozen, images), "all_eager": eager}
            return {way: round(len(images) / seconds_of(call, report)["seconds"], 1) for way, call in ways.items()}

        report.measure(f"images_per_s_{precision}", rates)


def data_part(report: Report) -> None:
    """Images per second and core of every loader on this machine, and the cores that a step needs."""
    if importlib.util.find_spec("yaml") is None:
        raise Skip("PyYAML, with which the views' recipes are read, is not installed here")
    from benchmarks import bench_views

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    photos = bench_views.imagenet_sized(4 if report.quick else 2 * bench_views.BATCH)
    # DALI's first batch waits for numba's compiler.
    measured = bench_views.measure(photos, 1 if report.quick else 3, with_dali=not report.quick)
    report.put("loaders", measured)
    report.put(
        "cores_of_a_gpu", bench_views.cores_needed(measured["photos_per_second"], step_rates(report.path.parent))
    )


def step_rates(folder: Path) -> dict[str, float]:
    """Images per second of the steps that this proof has measured."""
    rates = {}
    for name in METHODS:
        path = folder / f"steps_{name}.json"
        steps = json.loads(path.read_text()) if path.exists() else {}
        for precision in ("bf16", "fp16"):
            if rate := steps.get(f"ours_{precision}", {}).get("images_per_s"):
                rates[f"{name}_{precision}"] = rate
    return rates


PARTS: dict[str, Callable[[Report], None]] = {
    "machine": machine_part,
    "tests": tests_part,
    "training": proof_training.training_part,
    "memory": proof_memory.memory_part,
    "frozen": frozen_part,
    "profile": profile_part,
    "compiled": compiled_part,
    "graphs": graphs_part,
    "data": data_part,
} | {f"steps_{name}": partial(steps_part, name=name) for name in METHODS}


def run(part: str, folder: Path, seconds: float, *, quick: bool) -> None:
    """Run one part in this process."""
    torch.manual_seed(0)
    if quick:
        torch.set_num_threads(1)
    report = Report(folder / f"{part}.json", seconds, quick)
    try:
        PARTS[part](report)
    except Skip as error:
        report.put("skipped", str(error))
