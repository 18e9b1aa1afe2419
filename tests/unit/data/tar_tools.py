"""Reading and writing small tars in memory."""

import io
import tarfile

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
