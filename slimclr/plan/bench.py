"""A few real steps of one stage, in a process of their own: `python -m slimclr.plan.bench TASK OPTIONS OUT`.

OPTIONS are JSON. OUT receives JSON with what was measured and `ready`, the time at which the process had imported and
built everything. Each task runs in the environment that its rule runs in, with as many threads as its job has.
"""

import io
import json
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimclr.config import Detection, Pretrain, Probe, Random, parse_section
from slimclr.errors import UserError

if TYPE_CHECKING:
    import torch

    from slimclr.engine.loop import Trainer

# A step on the CPU is measured with no more multiply-adds than this: a few seconds.
_CPU_MACS = 1e11
_CPU_STEPS, _CPU_STEPS_OF_SMALL, _GPU_STEPS = 6, 16, 24
# A loader is watched for so long.
_LOADER_SECONDS = 1.5


def main() -> int:
    """Run one task; a mistake of the user's is one line in `error`."""
    task, options, out = sys.argv[1:]
    try:
        result = TASKS[task](**json.loads(options))
    except UserError as error:
        result = {"error": str(error)}
    Path(out).write_text(json.dumps(result), encoding="utf-8")
    return 0


def memory_gb() -> float:
    """The greatest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# ------------------------------------------------------------------------------------------------- training steps


def build_trainer(recipe: Pretrain, batch: int, *, classes: int, device: "torch.device", steps: int) -> "Trainer":
    """A trainer of random views: one epoch of the full width where the recipe has a slow start, one of all widths.

    Args:
        recipe: What is trained.
        batch: Images of one forward pass.
        classes: Classes of supervised training.
        device: Where it is trained.
        steps: Steps of each epoch.
    """
    from slimclr.build.method import build_method, place_method
    from slimclr.build.optimizer import build_optimizer
    from slimclr.data.views.recipes import training_views
    from slimclr.engine.distributed import Processes
    from slimclr.engine.loop import Trainer
    from slimclr.nn import build_backbone
    from slimclr.nn.placement import allow_tf32

    optimizer = recipe.optimizer
    assert optimizer is not None, "a random backbone is not trained"
    epochs = 2 if recipe.slow_start_epoch else 1
    recipe = recipe.model_copy(update={"epochs": epochs, "slow_start_epoch": epochs - 1})
    allow_tf32(recipe.tf32)
    backbone = build_backbone(**recipe.backbone.model_dump())
    method = build_method(recipe, backbone, classes=classes)
    place_method(method, backbone, recipe, device)
    views = len(training_views(recipe.views, image_size=recipe.image_size, widths=len(backbone.widths)))
    return Trainer(
        method=method,
        optimizer=build_optimizer(optimizer, method.trainable()),
        # So small that random images move no weight to where it is not finite.
        schedule=lambda _: 1e-6,
        loader=_synthetic(batch, views, recipe.image_size, steps, classes, device),
        epochs=epochs,
        where=Processes(0, 1, device),
        folder=Path(tempfile.mkdtemp(prefix="steps", dir=_folder())),
        precision=recipe.precision,
        grad_clip=optimizer.grad_clip,
        log_every=recipe.log_every,
        name="measure",
    )


def _folder() -> str:
    """The folder of this process's result: `slimclr plan` removes it."""
    return str(Path(sys.argv[-1]).parent) if __name__ == "__main__" else tempfile.gettempdir()


def _synthetic(batch: int, views: int, size: int, steps: int, classes: int, device: "torch.device") -> Any:
    """A loader that hands out the same random batch and notes when it was asked for one."""
    import torch

    from slimclr.data.loading.loader import Loader
    from slimclr.data.loading.orders import TrainingOrder

    class Synthetic(Loader):
        times: list[float]
        cpu: list[float]

        def _batches(self, epoch: int, start: int) -> Any:
            for _ in range(len(self)):
                if device.type == "cuda":
                    torch.cuda.synchronize()
                self.times.append(time.perf_counter())
                self.cpu.append(time.process_time())
                yield images, labels

    loader = Synthetic(TrainingOrder(batch * steps, batch, batch, 0))
    loader.times, loader.cpu = [], []
    images = [torch.randn(batch, 3, size, size, pin_memory=device.type == "cuda") for _ in range(views)]
    labels = torch.randint(classes, (batch,))
    return loader


def train_steps(trainer: "Trainer", steps: int) -> dict[str, Any]:
    """Run a trainer of `build_trainer`.

    Returns:
        `step_s`: seconds of a step for each of its epochs, `epoch_s`: seconds between two epochs beside that, `cores`:
        processor cores that it kept busy, `memory_gb`, `gpu_memory_gb`.
    """
    import torch

    trainer.train()
    times, cpu = trainer.loader.times, trainer.loader.cpu  # type: ignore[attr-defined]
    cuda = trainer.where.device.type == "cuda"
    skipped = steps // 3 if cuda else 1
    seconds, cores = [], []
    for epoch in range(trainer.epochs):
        own = times[epoch * steps : (epoch + 1) * steps][skipped:]
        busy = cpu[epoch * steps : (epoch + 1) * steps][skipped:]
        seconds.append(statistics.median(b - a for a, b in pairwise(own)))
        cores.append((busy[-1] - busy[0]) / (own[-1] - own[0]))
    gap = max(0.0, times[steps] - times[steps - 1] - seconds[0]) if trainer.epochs > 1 else 0.0
    gpu_memory = torch.cuda.max_memory_reserved() / 1e9 if cuda else None
    return {
        "step_s": seconds,
        "epoch_s": gap,
        # From the second epoch on, a thread may still be writing the checkpoint of the one before.
        "cores": max(0.1, min(cores)),
        "memory_gb": memory_gb(),
        "gpu_memory_gb": gpu_memory,
    }


def affordable(batch: int, macs: float, *, unit: int = 1, device: str) -> int:
    """The batch that is measured: the recipe's own on a GPU, on the CPU one that takes seconds.

    Args:
        batch: The recipe's.
        macs: Multiply-adds of one image.
        unit: It stays a multiple of this.
        device: cpu or cuda.
    """
    while device == "cpu" and batch * macs > _CPU_MACS and batch % (2 * unit) == 0 and batch > 2 * unit:
        batch //= 2
    return batch


def _steps(macs: float, device: str) -> int:
    """Steps to measure, more of those that take less time."""
    if device != "cpu":
        return _GPU_STEPS
    return _CPU_STEPS if macs > _CPU_MACS / 20 else _CPU_STEPS_OF_SMALL


def pretrain(
    recipe: dict[str, Any], *, batch: int, classes: int, workers: int, device: str, data: str
) -> dict[str, Any]:
    """Steps of a pre-training, and its loader alone.

    Args:
        recipe: The `pretrain` section.
        batch: Images of one forward pass of one process.
        classes: Number of classes.
        workers: Loader processes that have a core of their own.
        device: cpu or cuda.
        data: Images to load.
    """
    import torch

    from slimclr.nn import build_backbone
    from slimclr.nn.counts import count_macs

    settings = parse_section(Pretrain, json.dumps(recipe))
    backbone = build_backbone(**settings.backbone.model_dump())
    # A forward and a backward pass of every width.
    macs = 3 * sum(count_macs(backbone, width, image_size=settings.image_size) for width in backbone.widths)
    splits = getattr(settings.method, "bn_splits", 1)
    # A batch norm wants two images.
    unit = 2 * splits if batch % (2 * splits) == 0 else splits
    measured = affordable(batch, macs, unit=unit, device=device)
    steps = _steps(measured * macs, device)
    trainer = build_trainer(settings, measured, classes=classes, device=torch.device(device), steps=steps)
    ready, before = time.time(), memory_gb()
    result = train_steps(trainer, steps)
    views = len(settings.backbone.widths) if settings.views in ("mocov2_diff", "mocov2_sweet") else 0
    load = _training_load(settings, data, device, widths=max(1, views))
    return _combined(result, load, measured, batch, settings, workers, device, before) | {"ready": ready}


def _combined(
    steps: dict[str, Any],
    load_s: float,
    measured: int,
    batch: int,
    recipe: Pretrain | Probe,
    workers: int,
    device: str,
    before: float,
) -> dict[str, Any]:
    """What steps and loader come to together, per image; loader processes work while the network does."""
    # dali_gpu computes where the network does.
    apart = recipe.workers > 0 and recipe.loader != "dali_gpu"
    compute = [seconds / measured for seconds in steps["step_s"]]
    both = [max(c, load_s / workers) if apart else c + load_s for c in compute]
    busy = steps["cores"] * compute[-1] + load_s
    # Two batches wait for the network with every loader process, in shared memory.
    waiting = 2 * recipe.workers * batch * 2 * 3 * recipe.image_size**2 * 4 / 1e9 if apart else 0.0
    own = before + (steps["memory_gb"] - before) * (batch / measured if device == "cpu" else 1)
    gpu = steps["gpu_memory_gb"]
    return {
        "images_per_s": 1 / both[-1],
        "full_width_images_per_s": 1 / both[0] if len(both) > 1 else None,
        # The first batch of an epoch is waited for.
        "epoch_s": steps["epoch_s"] + (load_s * batch if apart else 0.0),
        "cores": max(0.1, busy / both[-1]),
        "memory_gb": own + waiting,
        "gpu_memory_gb": gpu,
        "measured_batch": measured,
        "compute_images_per_s": 1 / compute[-1],
        "loader_images_per_s": 1 / load_s * (workers if apart else 1),
    }


def _training_load(recipe: Pretrain | Probe, data: str, device: str, *, widths: int = 1) -> float:
    """Seconds in which one process loads a training image."""
    import torch

    from slimclr.data.loading.loaders import training_loader
    from slimclr.data.stores import open_images

    images = open_images(data)
    batch = min(16, len(images))
    where = torch.device(device if recipe.loader == "dali_gpu" else "cpu")
    loader = training_loader(
        images,
        recipe.views,
        image_size=recipe.image_size,
        widths=widths,
        total_batch=batch,
        batch=batch,
        seed=0,
        workers=0,
        backend=recipe.loader,
        device=where,
    )
    return _watch(lambda: iter(loader), batch)


def _watch(batches: Callable[[], Any], size: int) -> float:
    """Seconds per image of a loader, from its second batch on."""
    count, began = 0, 0.0
    while True:
        for number, _ in enumerate(batches()):
            if not began:
                began = time.perf_counter()
                continue
            count += size
            passed = time.perf_counter() - began
            if passed > _LOADER_SECONDS or (number > 200 and passed > _LOADER_SECONDS / 2):
                return passed / count


# ------------------------------------------------------------------------------------------------- the other stages


def drawn(recipe: dict[str, Any], *, folder: str) -> dict[str, Any]:
    """A random backbone's whole job, with the backbone and the image size of a recipe; leaves its weights."""
    from slimclr.stages.pretrain import pretrain as run

    settings = parse_section(Pretrain, json.dumps(recipe))
    settings = settings.model_copy(update={"method": Random(name="random"), "epochs": 0, "optimizer": None})
    where = Path(folder)
    run(
        settings,
        run="drawn",
        seed=0,
        data=None,
        out=where / "drawn",
        checkpoints=where / "drawn_checkpoints",
        gpus=0,
        paper=False,
    )
    return {"weights": str(where / "drawn/weights.safetensors"), "memory_gb": memory_gb()}


def probe(
    recipe: dict[str, Any], *, weights: str, batch: int, classes: int, workers: int, device: str, data: str
) -> dict[str, Any]:
    """Steps of a probe, batches of its evaluation, and both loaders alone; arguments as for `pretrain`.

    A supervised run's own classifier costs what a probe costs.
    """
    import torch

    from slimclr.build.optimizer import build_optimizer
    from slimclr.config import Optimizer
    from slimclr.data.loading.loaders import validation_loader
    from slimclr.data.stores import open_images
    from slimclr.engine.distributed import Processes
    from slimclr.engine.loop import Trainer
    from slimclr.nn.counts import count_macs
    from slimclr.nn.placement import allow_tf32, place
    from slimclr.nn.weights import load_backbone
    from slimclr.probe import LinearProbe, evaluate

    settings = parse_section(Probe, json.dumps(recipe))
    allow_tf32(settings.tf32)
    where = torch.device(device)
    backbone, _ = load_backbone(Path(weights))
    macs = sum(count_macs(backbone, width, image_size=settings.image_size) for width in backbone.widths)
    measured = affordable(batch, macs, device=device)
    steps = _steps(measured * macs, device)
    method = LinearProbe(backbone, classes)
    place(method, where)
    trainer = Trainer(
        method=method,
        optimizer=build_optimizer(settings.optimizer or Optimizer(lr=1.0), method.trainable()),
        schedule=lambda _: 1e-6,
        loader=_synthetic(measured, 1, settings.image_size, steps, classes, where),
        epochs=2,
        where=Processes(0, 1, where),
        folder=Path(tempfile.mkdtemp(prefix="steps", dir=_folder())),
        log_every=settings.log_every,
        name="measure",
    )
    ready, before = time.time(), memory_gb()
    result = train_steps(trainer, steps)
    result["step_s"] = result["step_s"][-1:]
    rates = _combined(
        result, _training_load(settings, data, device), measured, batch, settings, workers, device, before
    )
    small = max(1, measured // 4)
    batches = _synthetic(small, 1, settings.image_size, 3 * steps, classes, where)
    evaluate(method, batches, where)
    own = batches.times[1:]
    compute = statistics.median(b - a for a, b in pairwise(own)) / small
    images = open_images(data)
    loader = validation_loader(
        images,
        resize=settings.resize,
        image_size=settings.image_size,
        batch=8,
        workers=0,
        recipe="val" if settings.views == "normal" else settings.views,
        backend=settings.loader,
        device=where if settings.loader == "dali_gpu" else torch.device("cpu"),
    )
    load = _watch(lambda: iter(loader), 8)
    both = max(compute, load / workers) if settings.workers else compute + load
    return rates | {"evaluation_images_per_s": 1 / both, "ready": ready}


def transfer(
    recipe: dict[str, Any], *, weights: str, batch: int, device: str, folder: str, drawn_coco: dict[str, int]
) -> dict[str, Any]:
    """Iterations of Mask R-CNN on generated photos, and its evaluation.

    Args:
        recipe: The `detection` section.
        weights: A backbone.
        batch: Images of one iteration of one process.
        device: cpu or cuda.
        folder: Where to write.
        drawn_coco: Photos to generate, `coco_train` and `coco_val`.
    """
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    from slimclr.detection.check import annotation_file, check_coco
    from slimclr.detection.recipe import build_config
    from slimclr.detection.transfer import evaluate
    from slimclr.miniature.write import write_miniature
    from slimclr.nn.weights import load_backbone

    ready = time.time()
    coco, checkpoints = Path(folder) / "coco_raw/coco", Path(folder) / "coco_checkpoints"
    write_miniature(coco.parent, train_per_class=1, val_per_class=1, **drawn_coco)
    began = time.perf_counter()
    settings = parse_section(Detection, json.dumps(recipe)).model_dump()
    network, _ = load_backbone(Path(weights))
    settings |= {"epochs": 1, "milestones": [], "batch": batch, "lr": 1e-6}
    config = build_config(
        weights=Path(weights),
        stage_channels=network.stage_channels,
        coco=coco,
        classes=check_coco(coco),
        checkpoints=checkpoints,
        seed=0,
        **settings,
    )
    times: list[float] = []
    cpu: list[float] = []

    class Watch(Hook):
        def after_train_iter(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                import torch

                torch.cuda.synchronize()
            times.append(time.perf_counter())
            cpu.append(time.process_time())

    runner = Runner.from_cfg(config)
    runner.register_hook(Watch())
    built = time.perf_counter() - began
    runner.train()
    skipped = 3 if device == "cuda" else 1
    seconds = statistics.median(b - a for a, b in pairwise(times[skipped:]))
    cores = (cpu[-1] - cpu[0]) / (times[-1] - times[0])
    began = time.perf_counter()
    evaluate(runner, annotations=annotation_file(coco, "val"))
    evaluation = (time.perf_counter() - began) / drawn_coco["coco_val"]
    files = [path.stat().st_size for path in checkpoints.glob("step_*.pt")]
    gpu_memory = None
    if device == "cuda":
        import torch

        gpu_memory = torch.cuda.max_memory_reserved() / 1e9
    return {
        "iterations_per_s": 1 / seconds,
        "measured_batch": batch,
        "evaluation_images_per_s": 1 / evaluation,
        "checkpoint_gb": max(files) / 1e9,
        "cores": max(0.1, cores),
        "memory_gb": memory_gb(),
        "gpu_memory_gb": gpu_memory,
        "ready": ready + built,
    }


def report(runs: dict[str, list[str]], transfer_runs: list[str], *, references: str, folder: str) -> dict[str, Any]:
    """The report over made-up results of these runs."""
    from slimclr.files import write_json, write_text
    from slimclr.reporting import write_report

    results = Path(folder) / "results"
    head = {"schema": 1, "method": "simclr", "arch": "drawn", "epochs": 1}
    values = {
        "pretrain": {"params": 1.0, "macs": 1.0},
        "probe": {"top1": 50.0, "top5": 90.0},
        "transfer": {"box_ap": 20.0, "mask_ap": 20.0},
    }
    for name in (name for folders in runs.values() for name in folders):
        for stage in values if name in transfer_runs else ("pretrain", "probe"):
            widths = dict.fromkeys(("1.0", "0.75", "0.5", "0.25"), values[stage])
            metrics = head | {"run": name, "stage": stage, "widths": widths}
            write_json(results / stage / name / "metrics.json", metrics)
        lines = [
            {"step": step, "epoch": step / 10, "lr": 0.1, "loss": 1.0, "widths": {"1.0": {"loss": 1.0}}}
            for step in range(40)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_text(results / "pretrain" / name / "metrics.jsonl", text)
    write_report(
        results,
        Path(folder) / "report",
        runs=runs,
        transfer_runs=transfer_runs,
        references=Path(references),
        config_sha256="0" * 64,
        config_name="plan",
    )
    return {"memory_gb": memory_gb()}


# ------------------------------------------------------------------------------------------------- data


def data(
    kind: str, *, folder: str, mean_bytes: float, photos: int = 0, check_images: str = "structure"
) -> dict[str, Any]:
    """Archives to folder to LMDB with few images; leaves `train.lmdb` there.

    Args:
        kind: miniature; imagenet: photos of ImageNet's usual size; cifar.
        folder: Where to write.
        mean_bytes: Bytes of a generated photo, for imagenet.
        photos: Photos of the whole miniature, for miniature.
        check_images: How the extraction looks at every image.
    """
    import slimclr.stages.cifar
    import slimclr.stages.data  # noqa: F401 - what the jobs import, too

    where = Path(folder)
    result: dict[str, Any] = {"ready": time.time()}
    if kind == "cifar":
        return result | _cifar(where)
    if kind == "miniature":
        from slimclr.miniature.write import write_miniature

        began = time.perf_counter()
        write_miniature(where / "raw")
        result["miniature_photos_per_s"] = photos / (time.perf_counter() - began)
        archive = where / "raw/ILSVRC2012_img_train.tar"
        _archive(where / "small.tar", [_photo(seed, 5_000) for seed in range(2)], copies=1)
        return result | _extract_and_convert(archive, where, small=where / "small.tar", check_images=check_images)
    drawn_photos = [_photo(seed, mean_bytes) for seed in range(8)]
    _archive(where / "small.tar", drawn_photos, copies=4)
    _archive(where / "large.tar", drawn_photos, copies=250)
    large = where / "large.tar"
    return result | _extract_and_convert(large, where, small=where / "small.tar", check_images=check_images)


def _extract_and_convert(archive: Path, where: Path, *, small: Path, check_images: str) -> dict[str, Any]:
    """Rates out of the difference between a large and a small archive, so that beginnings do not count.

    The first one of all also imports what the others have then. A disk that was busy with the small one must not make
    the large one seem to take no time at all.
    """
    from slimclr.data.stores import open_images
    from slimclr.stages.data import convert, extract

    seconds: dict[str, list[float]] = {"extract": [], "convert": []}
    sizes = []
    for tar, name in [(small, "first"), (small, "small"), (archive, "train")]:
        began = time.perf_counter()
        extract("train", archive=tar, devkit=None, expect="subset", check_images=check_images, out=where / name)
        seconds["extract"].append(time.perf_counter() - began)
        began = time.perf_counter()
        convert(folder=where / name, out=where / f"{name}.lmdb")
        seconds["convert"].append(time.perf_counter() - began)
        sizes.append(sum(path.stat().st_size for path in (where / name).glob("*/*")))
    images = open_images(where / "train.lmdb")
    overhead = ((where / "train.lmdb").stat().st_size - sizes[-1]) / len(images)
    done = sizes[-1] - sizes[1]
    rates = {f"{name}_mb_per_s": done / 1e6 / max(own[-1] - own[1], own[-1] / 5) for name, own in seconds.items()}
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    return rates | {
        "small": str(small),
        "lmdb": str(where / "train.lmdb"),
        "lmdb_bytes_per_image": max(0.0, overhead),
        "image_bytes": sizes[-1] / len(images),
        "memory_gb": memory_gb() + children,
    }


def _photo(seed: int, mean_bytes: float) -> bytes:
    """A JPEG of 500 x 375 pixels, as most of ImageNet's are, whose noise gives it about this many bytes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
    noise = rng.standard_normal((375, 500, 3))
    low, high, data = 0.0, 60.0, b""
    for _ in range(7):
        sigma = (low + high) / 2
        file = io.BytesIO()
        pixels = np.clip(np.asarray(ground) + sigma * noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        data = file.getvalue()
        low, high = (sigma, high) if len(data) < mean_bytes else (low, sigma)
    return data


def _archive(path: Path, photos: list[bytes], *, copies: int) -> None:
    """A training archive of one class per photo."""
    with tarfile.open(path, "w") as outer:
        for number, photo in enumerate(photos):
            wnid, file = f"n{number:08d}", io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as inner:
                for copy in range(copies):
                    _member(inner, f"{wnid}_{copy}.JPEG", photo)
            _member(outer, f"{wnid}.tar", file.getvalue())


def _member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _cifar(where: Path) -> dict[str, Any]:
    """Images in folders, as PNG of CIFAR-10's size."""
    import numpy as np
    from PIL import Image

    from slimclr.data.archives.cifar import CLASSES, SIDE
    from slimclr.miniature.photos import draw_texture
    from slimclr.miniature.shapes import TEXTURES
    from slimclr.stages.cifar import cifar

    rng = np.random.default_rng(0)
    textures = list(TEXTURES)
    for split, count in (("train", 60), ("test", 12)):
        for number, name in enumerate(CLASSES):
            folder = where / "source" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                photo = draw_texture(rng, 2 * SIDE, 2 * SIDE, textures[number % len(textures)])
                photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / f"{index}.png")
    began = time.perf_counter()
    cifar(source=where / "source", out=where)
    seconds = time.perf_counter() - began
    files = [path.stat().st_size for path in (where / "source").rglob("*.png")]
    size, count = sum(files), len(files)
    lmdb = sum((where / f"{split}.lmdb").stat().st_size for split in ("train", "val"))
    return {
        "cifar_mb_per_s": size / 1e6 / seconds,
        "lmdb": str(where / "train.lmdb"),
        "lmdb_bytes_per_image": max(0.0, (lmdb - size) / count),
        "image_bytes": size / count,
        "memory_gb": memory_gb(),
    }


def recordio(lmdb: str, *, folder: str, resize: int | None, jobs: int) -> dict[str, Any]:
    """An LMDB to RecordIO; runs in the environment that has mxnet."""
    from slimclr.stages.recordio import recordio as run

    ready = time.time()
    out = Path(folder) / "train.rec"
    began = time.perf_counter()
    run(data=Path(lmdb), out=out, resize=resize, quality=95, jobs=jobs)
    size = Path(lmdb).stat().st_size
    return {
        "recordio_mb_per_s": size / 1e6 / (time.perf_counter() - began),
        "recordio_share": out.stat().st_size / size,
        "ready": ready,
        "memory_gb": memory_gb(),
    }


# ------------------------------------------------------------------------------------------------- the largest batch


def memory(recipe: dict[str, Any], *, batches: list[int], classes: int, device: str) -> dict[str, Any]:
    """Memory of two steps of all widths at each batch, in GB; on a GPU null where it does not fit.

    On the CPU a process tells only its greatest memory so far: give it one batch, or growing ones.
    """
    import gc

    import torch

    settings = parse_section(Pretrain, json.dumps(recipe))
    # All widths are what takes most.
    settings = settings.model_copy(update={"slow_start_epoch": 0})
    used: dict[str, float | None] = {}
    for batch in batches:
        trainer = None
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            trainer = build_trainer(settings, batch, classes=classes, device=torch.device(device), steps=2)
            trainer.train()
            used[str(batch)] = torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else memory_gb()
        except torch.OutOfMemoryError:
            used[str(batch)] = None
        del trainer
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return {"memory_gb": used}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "data": data,
    "drawn": drawn,
    "memory": memory,
    "pretrain": pretrain,
    "probe": probe,
    "recordio": recordio,
    "report": report,
    "transfer": transfer,
}

if __name__ == "__main__":
    sys.exit(main())
