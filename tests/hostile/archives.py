"""Hostile archives: what their members are called, what they are, and what they say of themselves."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.hostile import World
from tests.helpers.tar_tools import members, pack, tiny_photos
from tests.hostile.attack import Attack

NAMES = {
    "outside": "../../pwned.JPEG",
    "outside inside": "a/../../pwned.JPEG",
    "absolute": "/tmp/pwned.JPEG",
    "new line": "a\nb.JPEG",
    "escape": "\x1b]0;x\x07\x1b[31m.JPEG",
    "substitution": "$(touch pwned).JPEG",
    "option": "--checkpoint-action=exec=sh pwned.JPEG",
    "right to left": "a\u202eGEPJ.exe",
    "a record of ours": ".records",
    "the manifest": "manifest.parquet",
    "not UTF-8": "a\udcff.JPEG",
    "too long": "x" * 300 + ".JPEG",
    "empty": "",
    "dot": ".",
    "backslash": "..\\..\\pwned.JPEG",
    "tab": "a\tb.JPEG",
}
TYPES = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "contiguous": tarfile.CONTTYPE,
    "unknown type": b"Z",
}
SIZES = {"huge": 1 << 60, "longer than the file": 1 << 20, "shorter": 3, "negative": -1, "odd": 701}


def attacks(world: World) -> Iterator[Attack]:
    """Training archives, outside and inside their class tars, validation archives, CIFAR's, as tar and as zip."""
    (world.folder / "archives").mkdir(exist_ok=True)
    for form, (command, make) in _forms(world).items():
        for name, member in _members(zipped="zip" in form):
            path = world.folder / f"archives/{form.replace(' ', '_')}.{'zip' if 'zip' in form else 'tar'}"
            out = world.folder / "unpacked/here"
            yield Attack(
                f"hostile members of {form}", name, command(path, out), out, _laid(path, make, member), seconds=60
            )


def _forms(world: World) -> dict[str, tuple[Callable[[Path, Path], list[str]], Callable[[bytes], bytes]]]:
    """How a command reads an archive, and an archive around one member, by what it is called."""
    photos = list(tiny_photos(4))
    class_tar = pack([(f"n00000001_{number}.JPEG", photo) for number, photo in enumerate(photos)])
    val = [(info.name, data) for info, data in members(world.raw / "ILSVRC2012_img_val.tar")]

    def extract(split: str) -> Callable[[Path, Path], list[str]]:
        devkit = ["--devkit", str(world.raw / "ILSVRC2012_devkit_t12.tar.gz")] if split == "val" else []
        return lambda archive, out: [
            *("extract", "--split", split, "--archive", str(archive), "--expect", "subset", "--jobs", "1", *devkit),
            *("--out", str(out)),
        ]

    def cifar(archive: Path, out: Path) -> list[str]:
        return ["cifar", "--source", str(archive), "--out", str(out)]

    def class_of(member: bytes) -> bytes:
        return pack([("n00000001.tar", class_tar), ("n00000002.tar", member + class_tar)])

    photo = {f"{split}/cat/{number}.JPEG": data for split in ("train", "test") for number, data in enumerate(photos)}
    kaggle = {f"ILSVRC/Data/CLS-LOC/train/n00000001/{number}.JPEG": data for number, data in enumerate(photos)}
    return {
        "a training tar": (extract("train"), lambda member: member + pack([("n00000001.tar", class_tar)])),
        "a class tar": (extract("train"), class_of),
        "a validation tar": (extract("val"), lambda member: member + pack(val)),
        "a CIFAR tar": (cifar, lambda member: member + pack(list(photo.items()))),
        "a training zip": (extract("train"), lambda member: _zip(kaggle, member)),
        "a CIFAR zip": (cifar, lambda member: _zip(photo, member)),
    }


def _members(*, zipped: bool) -> Iterator[tuple[str, bytes]]:
    """Members as they stand in an archive, without its end; of a zip as a name, its mode and what is changed of it."""
    data = next(tiny_photos(1, start=77))
    if zipped:
        for case, name in NAMES.items():
            yield f"name: {case}", _asked(name, 0o644, 0, data)
        for case, mode in (("symbolic link", 0o120777), ("character device", 0o020644), ("fifo", 0o010644)):
            yield f"type: {case}", _asked("train/cat/x.JPEG", mode, 0, data)
        for case, size in SIZES.items():
            yield f"size: {case}", _asked("train/cat/x.JPEG", 0o644, size & 0xFFFFFFFF, data)
        return
    for case, name in NAMES.items():
        yield f"name: {case}", _entry(tarfile.TarInfo(name), data)
    for case, kind in TYPES.items():
        info = tarfile.TarInfo("n00000009.tar" if kind == b"Z" else "x.JPEG")
        info.type, info.linkname = kind, "/etc/passwd"
        yield f"type: {case}", _entry(info, b"" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else data)
    for case, size in SIZES.items():
        yield f"size: {case}", _entry(tarfile.TarInfo("n00000009_1.JPEG"), data, size=size)
    sparse = tarfile.TarInfo("n00000009_1.JPEG")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    yield "sparse by its header", _entry(sparse, b"1\n0\n99999999999999\n" + data)
    for key, value in (("size", str(1 << 60)), ("path", "../../pwned"), ("size", "-1"), ("mtime", "nan")):
        told = tarfile.TarInfo("n00000009_1.JPEG")
        told.pax_headers = {key: value}
        yield f"PAX header {key}={value}", _entry(told, data)
    yield "checksum of a header", _entry(tarfile.TarInfo("x.JPEG"), data).replace(b"x.JPEG", b"y.JPEG", 1)
    yield "the same name twice", 2 * _entry(tarfile.TarInfo("n00000001.tar"), data)


def _entry(info: tarfile.TarInfo, data: bytes, *, size: int | None = None) -> bytes:
    """A member with its header, which may lie about its size."""
    info.size = len(data) if size is None else size
    header = info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT, errors="surrogateescape")
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _asked(name: str, mode: int, size: int, data: bytes) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    return struct.pack("<IIH", mode, size, len(raw)) + raw + data


def _zip(photos: dict[str, bytes], member: bytes) -> bytes:
    """A zip of the photos and of what `_asked` says."""
    mode, size, length = struct.unpack("<IIH", member[:10])
    name, data = member[10 : 10 + length], member[10 + length :]
    file = io.BytesIO()
    stand_in = "@" * length
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(stand_in or "")
        info.external_attr = mode << 16
        archive.writestr(info, data)
        for photo, content in photos.items():
            archive.writestr(photo, content)
    whole = bytearray(file.getvalue().replace(stand_in.encode(), name) if length else file.getvalue())
    if size:
        at = whole.index(b"PK\x01\x02")  # the first entry of the directory, whose size is at 24
        whole[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(whole)


def _laid(path: Path, make: Callable[[bytes], bytes], member: bytes) -> Callable[[], "contextmanager"]:
    @contextmanager
    def laid() -> Iterator[None]:
        path.write_bytes(make(member))
        yield
        path.unlink()

    return laid
