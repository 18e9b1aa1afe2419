"""Noise within a JPEG: the extraction finds it, every loader refuses it, and the remedy that is named helps."""

import io

import numpy as np
import pytest
from PIL import Image

from slimclr.data.archives.extract import extract_train
from slimclr.data.images.check import describe
from slimclr.data.images.decode import decode_rgb
from slimclr.data.images.jpeg import markers_in_order
from slimclr.data.loading.loaders import training_loader, validation_loader
from slimclr.data.stores import open_images
from slimclr.errors import UserError
from slimclr.stages.data import extract
from tests.helpers.photo_tools import photo
from tests.helpers.tar_tools import pack

BACKENDS = ["torchvision", "torchvision_tensor", "dali"]
REMEDY = "; extract again with imagenet.check_images: decode and imagenet.on_corrupt: skip, which leaves it out"


def _jpeg(seed=0, **options):
    stream = io.BytesIO()
    Image.fromarray(photo(seed, 240, 320)).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def _put(data, at, other):
    return data[:at] + other + data[at + len(other) :]


def _damaged():
    good, progressive = _jpeg(), _jpeg(progressive=True)
    # Noise of 4 KiB has about 15 markers; decoders fail at most, not at all of them. FF 55 is none at all.
    noise, middle = b"\xff\x55" + np.random.default_rng(1).bytes(4094), len(good) // 2
    tables = good.index(b"\xff\xc4") + 5
    refused = {
        "noise": _put(good, middle, noise),
        "ones": _put(good, middle, b"\xff" * 4096),
        "noise_progressive": _put(progressive, len(progressive) // 2, noise),
        "no_end": good[:-2],
        "cut": good[:middle],
        "bad_table": _put(good, tables, bytes(20)),
    }
    # All decoders fill what is missing with grey, and none can know.
    accepted = {
        "zeros": _put(good, middle, bytes(4096)),
        "cut_with_end": good[:middle] + b"\xff\xd9",
        "more_behind": good + b"\n" + bytes(300),
    }
    return refused, accepted


REFUSED, ACCEPTED = _damaged()


class _One:
    """A data set of one image."""

    classes, labels = ("n1",), np.zeros(1, np.int64)

    def __init__(self, key, data):
        self.keys, self.data = (key,), data

    def __len__(self):
        return 1

    def read(self, index):
        return self.data


def _load(name, data, backend):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    loader = validation_loader(_One(name, data), resize=36, image_size=32, batch=1, workers=0, backend=backend)
    ((view,), _), *_ = loader
    return view


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", REFUSED)
def test_every_loader_refuses_the_same(name, backend):
    with pytest.raises(UserError, match=rf"^{name}: not a readable image \(.*\){REMEDY}$"):
        _load(name, REFUSED[name], backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ACCEPTED)
def test_every_loader_accepts_the_same(name, backend):
    decode_rgb(ACCEPTED[name])
    assert (_load(name, ACCEPTED[name], backend) - _load(name, ACCEPTED[name], "torchvision")).abs().mean() < 0.02


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"subsampling": 0}])
def test_whole_images_are_in_order(options):
    data = _jpeg(**options)
    assert markers_in_order(data)
    assert markers_in_order(data[:2] + b"\xff\xff" + data[2:])
    for share in (0.02, 0.3, 0.9):
        assert not markers_in_order(data[: int(share * len(data))])
    assert not markers_in_order(b"")
    grey = io.BytesIO()
    Image.fromarray(photo(1)).convert("L").save(grey, "JPEG", comment=b"\xff\xd8 and \xff\xd9")
    assert markers_in_order(grey.getvalue())


@pytest.mark.parametrize("check", ["structure", "decode"])
def test_the_extraction_finds_what_loaders_refuse(check):
    for name, data in REFUSED.items():
        if (check, name) != ("structure", "bad_table"):
            with pytest.raises(ValueError, match=r"not readable|cut short"):
                describe(data, check)
    for data in ACCEPTED.values():
        assert describe(data, check)[:2] == (320, 240)


def test_the_remedy_helps(tmp_path):
    """What the structure lets through stops a training by DALI's own threads, too, and goes when images are decoded."""
    pytest.importorskip("nvidia.dali")
    photos = {f"a{number}.JPEG": _jpeg(number) for number in range(8)} | {"bad.JPEG": REFUSED["bad_table"]}
    (tmp_path / "train.tar").write_bytes(pack([("n1.tar", pack(list(photos.items())))]))
    options = {"archive": tmp_path / "train.tar", "devkit": None, "expect": "subset", "on_corrupt": "skip"}

    def train(lmdb, **checks):
        extract("train", **options, **checks, out=tmp_path / lmdb, lmdb=tmp_path / f"{lmdb}.lmdb")
        images = open_images(tmp_path / f"{lmdb}.lmdb")
        sizes = {"image_size": 32, "total_batch": len(images), "batch": len(images)}
        return list(training_loader(images, "mocov2", **sizes, seed=0, workers=2, backend="dali"))

    with pytest.raises(UserError, match=rf"n1/bad.JPEG: not a readable image \(.*\){REMEDY}$"):
        train("a")
    assert len(train("b", check_images="decode")) == 1


def test_noise_in_an_archive_is_found_by_the_default_check(tmp_path):
    (tmp_path / "train.tar").write_bytes(pack([("n1.tar", pack([("a.JPEG", _jpeg()), ("b.JPEG", REFUSED["noise"])]))]))
    with pytest.raises(UserError, match=r"1 corrupt image\(s\) \(n1/b.JPEG: not readable: broken data stream"):
        extract_train(tmp_path / "train.tar", tmp_path / "train", expect="subset")
