"""Recipes, what is drawn, and the torchvision interpreter's two ways."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from pydantic import ValidationError
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from benchmarks.view_tools import pixels, random_views
from slimclr.config import Pretrain, Probe
from slimclr.data.images.decode import decode_rgb, read_header
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.draw import Drawn, draw, view_rng
from slimclr.data.views.recipes import MEAN, STD, View, recipes, training_views, validation_view
from slimclr.data.views.tensor import blur_taps, decode_tensor
from slimclr.errors import UserError
from tests.helpers.photo_tools import KINDS, encoded, photo

DISTINCT = random_views(image_size=64)
# crop scale, jitter, p, grey, blur, solarise, flip: the table of the published recipes.
TABLE = {
    "mocov2": [((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0, 0.5)] * 2,
    "mocov3": [
        ((0.2, 1), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0, 0.5),
        ((0.2, 1), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2, 0.5),
    ],
    "simclr": [((0.08, 1), (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0, 0.5)] * 2,
    "mocov1": [((0.2, 1), (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0, 0, 0.5)] * 2,
    "mocov2_diff": [((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0, 0.5)] * 4,
    "mocov2_sweet": [((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0, 0.5)] * 2
    + [((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0, 0, 0, 0.5)] * 2,
    "slim": [((0.08, 1), (0.4, 0.4, 0.4, 0), 1.0, 0, 0, 0, 0.5)],
    "normal": [((0.08, 1), None, 0, 0, 0, 0, 0.5)],
    "cifar_moco": [((0.08, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0, 0, 0.5)] * 2,
}


@pytest.mark.parametrize("recipe", TABLE)
def test_recipes_are_the_published_ones(recipe):
    views = training_views(recipe, image_size=224, widths=3)
    found = [
        (view.crop_scale, view.jitter, view.jitter_p, view.grey_p, view.blur_p, view.solarise_p, view.flip_p)
        for view in views
    ]
    assert found == TABLE[recipe]
    assert all(view.size == 224 and view.crop == "resized" for view in views)
    assert [view.jitter_after_grey for view in views] == [recipe == "mocov1"] * len(views)
    assert [view.lighting for view in views] == [0.1 if recipe == "slim" else 0.0] * len(views)
    assert {view.lighting_scale for view in views} == {"unit"}
    cifar = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert {(view.mean, view.std) for view in views} == {cifar if recipe == "cifar_moco" else (MEAN, STD)}


def test_the_other_recipes_and_validation():
    assert MEAN == (0.485, 0.456, 0.406)
    assert STD == (0.229, 0.224, 0.225)
    (cifar,) = training_views("cifar_supervised", image_size=32)
    assert cifar == View(crop="padded", size=32, padding=4, flip_p=0.5)
    assert recipes().validation["val"] == View(crop="centre", resize=256, size=224)
    assert recipes().validation["cifar_supervised"] == View(crop="none", size=32)
    assert recipes().validation["cifar_moco"].mean == (0.4914, 0.4822, 0.4465)
    # A probe sees the values that its backbone was trained on.
    (probe,) = training_views("cifar_probe", image_size=32)
    (moco, _) = training_views("cifar_moco", image_size=32)
    assert probe == cifar.model_copy(update={"mean": moco.mean, "std": moco.std})
    assert recipes().validation["cifar_probe"] == recipes().validation["cifar_moco"]
    val = validation_view(resize=72, image_size=64)
    assert (val.resize, val.size) == (72, 64)
    # The config's defaults are the published sizes too.
    assert (Probe.model_fields["resize"].default, Probe.model_fields["image_size"].default) == (256, 224)


def test_the_config_names_recipes_that_exist():
    assert set(get_args(Pretrain.model_fields["views"].annotation)) <= set(recipes().training)


def test_unknown_recipes_and_keys_are_refused():
    with pytest.raises(ValueError, match=r"views 'moco' is not one of mocov2, .*normal"):
        training_views("moco", image_size=224)
    with pytest.raises(ValidationError, match="blur"):
        View.model_validate({"blur": 0.5})


def test_a_view_depends_on_seed_epoch_image_and_number_alone():
    (view,) = training_views("slim", image_size=32)
    same = [draw(view, view_rng(1, 2, 3, 0), 400, 500) for _ in range(2)]
    assert same[0] == same[1]
    others = [draw(view, view_rng(*key), 400, 500) for key in [(0, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 1)]]
    assert len({same[0], *others}) == 5


def test_boxes_are_distributed_as_torchvisions():
    view = DISTINCT["simclr0"]
    image = torch.zeros(3, 90, 160)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(32, scale=view.crop_scale)
    given = [transform.make_params([image]) for _ in range(2000)]
    theirs = np.array([[one[name] for name in ("top", "left", "height", "width")] for one in given])
    drawn = [draw(view, view_rng(0, 0, index, 0), 90, 160) for index in range(2000)]
    ours = np.array([[one.top, one.left, one.height, one.width] for one in drawn])
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 0.001


def test_an_image_too_long_for_any_box_gives_its_centre():
    view = DISTINCT["mocov20"]
    long = draw(view.model_copy(update={"crop_scale": (0.9, 1.0)}), view_rng(0, 0, 0, 0), 30, 300)
    assert (long.top, long.left, long.height, long.width) == (0, 130, 30, 40)


def test_jitter_and_coins_are_distributed_as_published():
    view = DISTINCT["mocov31"]
    drawn = [draw(view, view_rng(0, 0, index, 0), 90, 160) for index in range(4000)]
    for name, low, high in [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ]:
        factors = np.array([dict(one.colours)[name] for one in drawn if name in dict(one.colours)])
        assert len(factors) / len(drawn) == pytest.approx(0.8, abs=0.02)
        assert ks_2samp(factors, np.random.default_rng(1).uniform(low, high, 4000)).pvalue > 0.001
    orders = [tuple(name for name, _ in one.colours if name != "grey") for one in drawn]
    counts = {order: orders.count(order) for order in set(orders) if order}
    assert len(counts) == 24
    assert max(counts.values()) < 2 * min(counts.values())
    assert np.mean(["grey" in dict(one.colours) for one in drawn]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([one.solarise for one in drawn]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([one.flip for one in drawn]) == pytest.approx(0.5, abs=0.03)
    sigmas = np.array([one.blur for one in drawn if one.blur])
    assert len(sigmas) / len(drawn) == pytest.approx(0.1, abs=0.02)
    assert 0.1 <= sigmas.min() < sigmas.max() <= 2


def test_mocov1_jitters_what_may_have_lost_its_colour():
    first = [draw(DISTINCT["mocov10"], view_rng(0, 0, index, 0), 90, 160).colours for index in range(100)]
    assert {colours[0][0] for colours in first if len(colours) == 5} == {"grey"}
    last = [draw(DISTINCT["mocov20"], view_rng(0, 0, index, 0), 90, 160).colours for index in range(100)]
    assert {colours[-1][0] for colours in last if len(colours) == 5} == {"grey"}


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
def test_blur_weights_are_pillows(sigma):
    image = np.zeros((31, 31), np.uint8)
    image[:, 15] = 255
    row = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))[15]
    taps = blur_taps(sigma)
    assert row[15 : 15 + len(taps)] == pytest.approx(255 * taps, abs=2)
    assert row[15 + len(taps) :].max() == 0


@pytest.mark.parametrize("name", DISTINCT)
def test_the_tensor_path_agrees_with_pillow(name):
    """Pillow rounds after each operation; the mean difference stays below 2 of 255, for a single image below 4."""
    view, image = DISTINCT[name], Image.fromarray(photo(0))
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    differences = []
    for index in range(60):
        drawn = draw(view, view_rng(0, 0, index, 0), image.height, image.width)
        slow, fast = apply_torchvision(view, drawn, image), apply_torchvision(view, drawn, tensor)
        differences.append(np.abs(pixels(slow, view) - pixels(fast, view)).mean())
    assert np.mean(differences) < 2
    assert np.max(differences) < 4


def test_validation_of_tensors_agrees_with_pillow():
    view = validation_view(resize=72, image_size=64)
    image = Image.fromarray(photo(1))
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    drawn = draw(view, view_rng(0, 0, 0, 0), image.height, image.width)
    expected = v2.functional.pil_to_tensor(v2.functional.center_crop(v2.functional.resize(image, [72]), [64])).numpy()
    assert pixels(apply_torchvision(view, drawn, image), view) == pytest.approx(expected, abs=1e-2)
    assert np.abs(pixels(apply_torchvision(view, drawn, tensor), view) - expected).mean() < 0.5


def test_a_padded_crop_may_reach_into_black():
    (view,) = training_views("cifar_supervised", image_size=32)
    drawn = [draw(view, view_rng(0, 0, index, 0), 32, 32) for index in range(400)]
    assert {one.top for one in drawn} == {one.left for one in drawn} == set(range(-4, 5))
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    made = pixels(apply_torchvision(view, Drawn(-4, 2, 32, 32), image), view)
    assert made[:, :4].max() < 0.01
    assert made[:, 4:, -2:].max() < 0.01
    assert made[:, 10, 10] == pytest.approx([200, 100, 50], abs=0.01)


def test_lighting_moves_along_the_axes_of_natural_colours():
    (view,) = training_views("slim", image_size=32)
    unit = np.array([draw(view, view_rng(0, 0, index, 0), 90, 160).lighting for index in range(4000)])
    # 0.1 * 0.2175 along the first axis, which is nearly grey.
    assert unit.std(0) == pytest.approx(0.1 * 0.2175 * np.abs([-0.5675, -0.5808, -0.5836]), rel=0.1)
    byte = draw(view.model_copy(update={"lighting_scale": "byte"}), view_rng(0, 0, 0, 0), 90, 160).lighting
    assert 255 * np.array(byte) == pytest.approx(unit[0])
    plain, lit = Drawn(0, 0, 120, 160), Drawn(0, 0, 120, 160, lighting=tuple(unit[0]))
    image = Image.fromarray(photo(0))
    moved = pixels(apply_torchvision(view, lit, image), view) - pixels(apply_torchvision(view, plain, image), view)
    assert moved.mean((1, 2)) == pytest.approx(255 * unit[0], abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pixels(kind):
    data = encoded(photo(2), kind)
    slow, fast = decode_rgb(data), decode_tensor(data)
    assert read_header(data)[:2] == fast.shape[1:] == (slow.height, slow.width)
    difference = np.abs(np.asarray(slow, np.float32).transpose(2, 0, 1) - fast.numpy())
    assert difference.mean() < 0.5
    assert difference.max() <= 4


@pytest.mark.parametrize("data", [b"", b"text, not an image", "cut"], ids=["empty", "text", "cut"])
def test_bad_files_are_named(data):
    if data == "cut":
        data = encoded(photo(2), "jpeg")[:2000]
    with pytest.raises(UserError, match=r"n01/a\.JPEG: not a readable image"):
        decode_tensor(data, "n01/a.JPEG")
