"""Few labels: shares of every class, and lists of names."""

import numpy as np
import pytest

from slimclr.data.stores.subset import Subset, drawn_share, list_text, named_images
from slimclr.errors import UserError
from tests.helpers.memory_images import MemoryImages

KEYS = ["n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10027.JPEG", "n01443537/n01443537_2.JPEG", "x/a.png"]


def test_a_share_is_drawn_of_every_class_by_the_seed():
    labels = np.repeat([0, 1, 2], [200, 50, 3])
    chosen = drawn_share(labels, 0.1, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [20, 5, 1]
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(chosen, drawn_share(labels, 0.1, seed=0))
    assert not np.array_equal(chosen, drawn_share(labels, 0.1, seed=1))


def test_a_subset_has_its_images_and_all_classes():
    images = MemoryImages(12, classes=3)
    some = Subset(images, np.array([1, 4, 7]))
    assert (len(some), some.keys, some.classes) == (3, [images.keys[n] for n in (1, 4, 7)], images.classes)
    assert some.labels.tolist() == [1, 1, 1]
    assert some.read(2) == images.read(7)


@pytest.mark.parametrize("text", [
    "n01443537_2.JPEG\nn01440764_10026.JPEG\n",
    "\ufeffn01440764_10026.JPEG\r\n\r\nn01443537/n01443537_2.JPEG",
])  # fmt: skip
def test_lists_of_names_and_of_keys_are_read(tmp_path, text):
    (tmp_path / "1percent.txt").write_text(text, newline="")
    assert named_images(KEYS, tmp_path / "1percent.txt").tolist() == [0, 2]


def test_a_list_that_was_written_is_read_again(tmp_path):
    class Named:
        keys = KEYS

    (tmp_path / "images.txt").write_text(list_text(Named()))
    assert (tmp_path / "images.txt").read_text().splitlines()[2:] == ["n01443537_2.JPEG", "x/a.png"]
    assert named_images(KEYS, tmp_path / "images.txt").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("n01440764_10026.JPEG\nn0_1.JPEG\nn0_2.JPEG\nn0_3.JPEG\nn0_4.JPEG\n",
         "4 of 5 images are not among the training images (n0_1.JPEG, n0_2.JPEG, n0_3.JPEG, ...); give a list of this "
         "data set's images"),
        ("a.png\nn01443537_2.JPEG\na.png\n", "names a.png more than once; keep one"),
        ("\n\n", "names no image; give a text file of image names, one a line"),
        (None, "not a readable list ("),
    ],
)  # fmt: skip
def test_a_list_that_does_not_do_gives_one_line(tmp_path, text, fault):
    path = tmp_path / "10percent.txt"
    if text is None:
        path.write_bytes(b"\xff\xfe\x00")
    else:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        named_images(KEYS, path)
    assert str(error.value).startswith(f"{path}: {fault}")
    assert "\n" not in str(error.value)


def test_a_name_of_several_images_needs_its_folder(tmp_path):
    (tmp_path / "names.txt").write_text("1.JPEG\n")
    with pytest.raises(UserError, match=r"1\.JPEG is the name of several images; write <class>/<file name>"):
        named_images(["a/1.JPEG", "b/1.JPEG"], tmp_path / "names.txt")
