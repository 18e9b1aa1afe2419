"""Every file that the pipeline reads again, damaged in twenty ways: refused in one line, or done without it.

Where a file has a checksum beside it, what is trained must be what is trained without the damage. What has none must
not end in a traceback, nor in half a result.
"""

import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slimclr.cli import main
from slimclr.data.stores.recordio import MAGIC
from tests.helpers.hostile import MMDET, Starter, World, outcome
from tests.hostile.attack import Attack, limit_memory

SEED = 0


def ways(number: int, content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """One of twenty damages: what it is, and the file then."""
    size = len(content)
    at = generator.randrange(max(1, size))
    if number == 0:
        return "empty", b""
    if number == 1:
        return "zeros", bytes(size)
    if number == 2:
        return "noise", generator.randbytes(size)
    if number == 3:
        return "its halves swapped", content[size // 2 :] + content[: size // 2]
    if number == 4:
        return "twice", content + content
    if number == 5:
        return "a byte more", content + b"\n"
    if number == 6:
        return "an HTML page", b"<!DOCTYPE html><html><title>404</title></html>\n"
    if number < 12:
        return f"cut at {at} of {size}", content[:at]
    if number < 14:
        return f"4 KiB of zeros at {at}", content[:at] + bytes(min(4096, size - at)) + content[at + 4096 :]
    # The first ones in the head, where formats say what follows.
    at = generator.randrange(min(64, size)) if number < 16 else at
    bit = 1 << generator.randrange(8)
    return f"bit {bit} of byte {at} of {size}", content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


@dataclass(frozen=True)
class Read:
    """A file that a command reads.

    Attributes:
        kind: What it is.
        path: Where it is; below `made`, where that is given.
        command: Reads it.
        made: A folder that lies at the command's place before it starts.
        whole: As of an `Attack`.
    """

    kind: str
    path: Path
    command: list[str]
    made: Path | None = None
    whole: Callable[[], bool] = lambda: True


def attacks(world: World, starter: Starter, *, each: int = 20) -> Iterator[Attack]:
    """So many damages of each file."""
    out = world.folder / "damaged"
    inputs = _of_transfer(world, out) if MMDET else [*_inputs(world, out), *_exported(world, out)]
    for read in [*inputs, *_kept(world, starter, out)]:
        content, generator = read.path.read_bytes(), random.Random(SEED)
        for number in range(20)[:: 20 // each]:
            case, damaged = ways(number, content, generator)
            around = partial(_damaged, read, content, damaged, out)
            limit = partial(limit_memory, 4096)
            yield Attack(f"damages of {read.kind}", case, read.command, out, around, limit, whole=read.whole)


@contextmanager
def _damaged(read: Read, content: bytes, damaged: bytes, out: Path) -> Iterator[None]:
    if read.made:
        shutil.copytree(read.made, out)
        (out / read.path.relative_to(read.made)).write_bytes(damaged)
        yield
        return
    read.path.write_bytes(damaged)
    try:
        yield
    finally:
        read.path.write_bytes(content)


def _inputs(world: World, out: Path) -> list[Read]:
    train, lmdb, raw = world.folder / "train", world.folder / "train.lmdb", world.raw
    verify = ["verify", str(lmdb), "--manifest", str(train / "manifest.parquet"), "--content"]
    val = ["extract", "--split", "val", "--archive", str(raw / "ILSVRC2012_img_val.tar"), "--expect", "subset"]
    val += ["--devkit", str(raw / "ILSVRC2012_devkit_t12.tar.gz"), "--out", str(out / "val")]
    results, rec = world.folder / "results", _record_file(world)
    photo = next(train.rglob("*.JPEG"))
    return [
        Read("the training archive", raw / "ILSVRC2012_img_train.tar", world.command("extract", out)),
        Read("the validation archive", raw / "ILSVRC2012_img_val.tar", val),
        Read("the development kit", raw / "ILSVRC2012_devkit_t12.tar.gz", val),
        Read("the manifest", train / "manifest.parquet", world.command("convert", out)),
        Read("an image of the folder", photo, world.command("convert", out)),
        Read("the LMDB: verify", lmdb, verify),
        Read("the LMDB: pretrain", lmdb, world.command("pretrain", out, epochs=2)),
        Read("RecordIO's .rec", rec, ["verify", str(rec)]),
        Read("RecordIO's .idx", rec.with_suffix(".idx"), ["verify", str(rec)]),
        Read("RecordIO's .lst", rec.with_suffix(".lst"), ["verify", str(rec)]),
        Read("weights.safetensors", world.weights, world.command("probe", out)),
        Read("a checkpoint to import", world.folder / "foreign/net.pth.tar", world.command("import", out)),
        Read("metrics.json", results / "probe/plain/metrics.json", world.command("report", out)),
        Read("metrics.jsonl", results / "pretrain/plain/metrics.jsonl", world.command("report", out)),
        Read("references.yaml", world.folder / "references.yaml", world.command("report", out)),
    ]


def _of_transfer(world: World, out: Path) -> list[Read]:
    command = world.command("transfer", out)
    coco = world.raw / "coco"
    return [
        Read("COCO's annotations", coco / "annotations/instances_train2017.json", command),
        Read("a photo of COCO", next((coco / "train2017").iterdir()), command),
        Read("weights.safetensors", world.weights, command),
    ]


def _record_file(world: World) -> Path:
    """As `slimclr recordio` writes it, which needs mxnet."""
    from slimclr.data.stores import open_images

    images, rec, idx, lst = open_images(world.folder / "train"), b"", "", ""
    for index, (key, label) in enumerate(zip(images.keys, images.labels, strict=True)):
        content = struct.pack("<IfQQ", 0, label, index, 0) + images.read(index)
        idx += f"{index}\t{len(rec)}\n"
        lst += f"{index}\t{label}\t{key}\n"
        rec += MAGIC + struct.pack("<I", len(content)) + content + bytes(-len(content) % 4)
    path = world.folder / "train.rec"
    path.write_bytes(rec)
    path.with_suffix(".idx").write_text(idx)
    path.with_suffix(".lst").write_text(lst)
    return path


def _exported(world: World, out: Path) -> list[Read]:
    """The files of an export, as another command reads them."""
    folder = world.folder / "exported"
    assert main(world.command("export", folder)) == 0
    photos = world.folder / "val.lmdb"
    command = ["features", str(folder / "export"), str(photos), "--workers", "0", "--out", str(out / "features.npy")]
    files = [folder / "export/model.safetensors", folder / "export/config.json"]
    return [Read(f"an export's {path.name}", path, command) for path in files]


def _kept(world: World, starter: Starter, out: Path) -> Iterator[Read]:
    """What a stage keeps in its checkpoints' folder to go on with, one file of each sort; an extraction's records."""
    for stage in ["transfer"] if MMDET else ["extract", "pretrain", "probe", "quick", "finetune"]:
        made, whole = world.folder / f"kept/{stage}", world.folder / f"whole/{stage}"
        assert starter.run(world.command(stage, whole), whole.with_suffix(".log")) == 0
        wanted = outcome(stage, whole)
        shutil.copytree(whole, made)
        for name in ("out", "metrics.json", "train/manifest.parquet"):
            if (made / name).is_dir():
                shutil.rmtree(made / name)
            else:
                (made / name).unlink(missing_ok=True)
        files = {re.sub(r"\d+", "N", path.name): path for path in sorted(made.rglob("*")) if path.is_file()}
        for name, path in files.items():
            if path.name in ("lock", ".lock") or "tfevents" in name or path.suffix == ".JPEG":
                continue
            if path.stat().st_size:
                # What a damaged record said is lost, and told: the training's own result is the same.
                records = name == "metrics.jsonl" and stage in ("pretrain", "finetune")
                right = partial(_as, stage, out, wanted, weights_alone=records)
                yield Read(f"{stage}'s {name}", path, world.command(stage, out), made, right)


def _as(stage: str, out: Path, wanted: Any, *, weights_alone: bool) -> bool:
    left = outcome(stage, out)
    return left[0] == wanted[0] if weights_alone else left == wanted
