"""Reading and writing small tars in memory."""

import io
import tarfile
from hashlib import sha1

from PIL import Image

# Arguments of `write_miniature` that make it quick.
SMALL = {"classes": 4, "train_per_class": 6, "val_per_class": 4, "coco_train": 20, "coco_val": 4}


def members(archive):
    """(TarInfo, bytes) of a tar, given as path or bytes."""
    source = {"fileobj": io.BytesIO(archive)} if isinstance(archive, bytes) else {"name": archive}
    with tarfile.open(**source) as tar:
        return [(info, tar.extractfile(info).read() if info.isreg() else b"") for info in tar]


def pack(entries):
    """Bytes of a tar of (TarInfo or name, bytes)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for info, data in entries:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tiny_photos(count, start=0):
    """Different JPEGs of some 700 bytes: one picture, a number in its comment."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "orange").save(file, "JPEG")
    picture = file.getvalue()
    for number in range(start, start + count):
        text = b"%08d" % number
        yield picture[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + picture[2:]


def tiny_archive(path, classes, per_class):
    """A tar of one tar per class, as the official training archive is."""
    with tarfile.open(path, "w") as outer:
        for index in range(classes):
            photos = tiny_photos(per_class, start=index * per_class)
            inner = pack([(f"n{index:08d}_{number}.JPEG", photo) for number, photo in enumerate(photos)])
            info = tarfile.TarInfo(f"n{index:08d}.tar")
            info.size = len(inner)
            outer.addfile(info, io.BytesIO(inner))


def lmdb_content(path):
    """Every entry of a database; sums, because pytest takes minutes to show how images differ."""
    import lmdb

    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as reader:
        return [(bytes(name), sha1(value).hexdigest()) for name, value in reader.cursor()]
