import io

import numpy as np
import pytest
from PIL import Image

from slimclr.data.images.decode import decode_rgb
from slimclr.data.stores import open_images
from slimclr.data.stores.folder import FolderImages
from slimclr.errors import UserError


def _encoded(mode, kind, colour=0, size=(6, 4)):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def test_labels_are_ranks_of_the_sorted_classes(extracted):
    images = open_images(extracted)
    assert isinstance(images, FolderImages)
    assert images.classes == sorted(images.classes)
    assert len(images) == len(images.keys) == len(images.labels) == 24
    assert images.labels.dtype == np.int64
    for index, key in enumerate(images.keys):
        assert images.classes[images.labels[index]] == key.split("/")[0]
        assert images.read(index) == (extracted / key).read_bytes()


def test_only_images_of_class_folders_count(tmp_path):
    for path in ("b/2.PNG", "a/1.jpeg", "a/notes.txt", ".a.part/1.jpeg", "empty/notes.txt", "loose.jpeg", "a/.1.jpeg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    images = FolderImages(tmp_path)
    assert images.keys == ["a/1.jpeg", "b/2.PNG"]
    assert images.classes == ["a", "b"]


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="no images in class folders"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="no such data set"):
        open_images(tmp_path / "none")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match="not a data set"):
        open_images(tmp_path / "file.txt")


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (_encoded("RGB", "JPEG", (200, 10, 10)), (200, 10, 10)),
        (_encoded("L", "JPEG", 77), (77, 77, 77)),
        (_encoded("CMYK", "JPEG", (0, 255, 255, 0)), (255, 0, 0)),
        (_encoded("P", "PNG", 0), (0, 0, 0)),
        (_encoded("RGBA", "PNG", (0, 0, 0, 0)), (255, 255, 255)),
        (_encoded("LA", "PNG", (9, 255)), (9, 9, 9)),
        (_encoded("I;16", "PNG", 128 * 256), (128, 128, 128)),
    ],
    ids=["rgb", "grey", "cmyk", "palette", "transparent", "grey with alpha", "16 bit"],
)
def test_every_kind_becomes_rgb(data, colour):
    image = decode_rgb(data)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.array(image.getpixel((2, 2))) - colour).max() <= 3


def test_corrupt_image_is_named():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    for data in (b"", b"no image", file.getvalue()[:2000]):
        with pytest.raises(UserError, match=r"n01/a.JPEG: not a readable image"):
            decode_rgb(data, "n01/a.JPEG")
