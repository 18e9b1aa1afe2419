"""The DALI interpreter against the torchvision interpreter on PIL images."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from benchmarks.view_tools import dali_batches, drawn_views, ks_limit, measured, pixels, random_views
from slimclr.data.images.decode import decode_rgb
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.draw import Drawn, draw, view_rng
from slimclr.data.views.recipes import View, training_views, validation_view
from slimclr.nn import build_backbone
from tests.helpers.photo_tools import KINDS, encoded, photo

pytest.importorskip("nvidia.dali")
dali_views = pytest.importorskip("slimclr.data.views.dali")

DRAWS = 2000
DISTINCT = random_views(image_size=64)


def render(view, files, drawn):
    """Views (n, 3, size, size) of n files by DALI."""
    return np.concatenate(list(dali_batches(view, files, drawn)))


@pytest.fixture(params=["kernel", "operators"])
def way(request, monkeypatch):
    """Both ways behind the crop: compiled by numba, as on CPUs, and by DALI's operators, as on GPUs."""
    if request.param == "operators":
        monkeypatch.setattr(dali_views, "finish", None)
    elif dali_views.finish is None:
        pytest.skip("numba is not installed")


@pytest.mark.parametrize("name", DISTINCT)
def test_the_same_numbers_give_the_same_pictures(name, way):
    view, data = DISTINCT[name], encoded(photo(0), "jpeg")
    image = decode_rgb(data)
    drawn = drawn_views(view, 100, image.height, image.width)
    expected = np.stack([pixels(apply_torchvision(view, one, image), view) for one in drawn])
    differences = np.abs(pixels(render(view, [data] * len(drawn), drawn), view) - expected).mean((1, 2, 3))
    # DALI rounds less often, and cuts what leaves 0..255 twice instead of after each of the four colour operations:
    # that shows where strong factors make a view very bright first, and darker then.
    assert differences.mean() < 2
    assert np.quantile(differences, 0.95) < 8


def test_validation_agrees_with_pillow_and_decides_alike():
    view = validation_view(resize=72, image_size=64)
    files = [encoded(photo(seed, 90 + seed % 37, 90 + seed % 41), "jpeg") for seed in range(100)]
    images = [decode_rgb(data) for data in files]
    drawn = [draw(view, view_rng(0, 0, 0, 0), image.height, image.width) for image in images]
    expected = torch.stack([apply_torchvision(view, one, image) for one, image in zip(drawn, images, strict=True)])
    made = torch.from_numpy(render(view, files, drawn))
    assert np.abs(pixels(made, view) - pixels(expected, view)).mean((1, 2, 3)).max() < 2
    torch.manual_seed(0)
    network = build_backbone(depth=14, base_width=16, widths=(1.0,), overlap=True, zero_init_residual=False).eval()
    classifier = torch.randn(network(expected[:1], 1.0).shape[1], 10)
    with torch.no_grad():
        decisions = [(network(views, 1.0) @ classifier).argmax(1) for views in (expected, made)]
    assert (decisions[0] == decisions[1]).float().mean() >= 0.99


def test_every_coin_is_tossed_per_image(way):
    data = encoded(photo(0), "jpeg")
    whole = {"top": 0, "left": 0, "height": 120, "width": 160}
    view = View(size=64, jitter=(0.4, 0.4, 0.4, 0.1), grey_p=0.5, blur_p=0.5, solarise_p=0.5, flip_p=0.5, lighting=0.1)
    changes = [
        {},
        {"colours": (("grey", 0.0),)},
        {"blur": 2.0},
        {"solarise": True},
        {"flip": True},
        {"colours": (("hue", 0.1),)},
        {"lighting": (0.1, 0.0, -0.1)},
    ]
    drawn = [Drawn(**whole, **change) for change in changes]
    plain, grey, blurred, solarised, flipped, turned, lit = pixels(render(view, [data] * len(drawn), drawn), view)
    assert np.abs(grey - grey.mean(0)).max() < 0.01
    assert np.ptp(plain, axis=0).mean() > 20
    assert np.abs(np.diff(blurred)).mean() < 0.7 * np.abs(np.diff(plain)).mean()
    assert solarised == pytest.approx(np.where(plain < 127.5, plain, 255 - plain), abs=0.01)
    assert flipped == pytest.approx(plain[:, :, ::-1], abs=0.01)
    assert turned.max(0) == pytest.approx(plain.max(0), abs=0.01)
    assert np.abs(turned - plain).mean() > 5
    assert (lit - plain).mean((1, 2)) == pytest.approx(255 * np.array([0.1, 0, -0.1]), abs=0.01)


def test_both_cut_the_same_box():
    """A photo whose colours say where they are, and views that only crop."""
    rows, columns = np.mgrid[0:120, 0:160]
    data = encoded(np.stack([rows, columns, rows], 2).astype(np.uint8), "png")
    (view,) = training_views("normal", image_size=64)
    view = view.model_copy(update={"flip_p": 0.0})
    drawn = drawn_views(view, 50, 120, 160)
    made = pixels(render(view, [data] * 50, drawn), view)
    steps = (np.arange(64) + 0.5)[4:-4] / 64
    for one, values in zip(drawn, made, strict=True):
        assert values[0, 4:-4, 32] == pytest.approx(one.top + steps * one.height - 0.5, abs=1)
        assert values[1, 32, 4:-4] == pytest.approx(one.left + steps * one.width - 0.5, abs=1)
        assert values == pytest.approx(pixels(apply_torchvision(view, one, decode_rgb(data)), view), abs=1.5)


def test_a_padded_crop_may_reach_into_black(way):
    (view,) = training_views("cifar_supervised", image_size=32)
    data = encoded(photo(0, 32, 32), "png")
    drawn = drawn_views(view, 50, 32, 32)
    expected = np.stack([apply_torchvision(view, one, decode_rgb(data)) for one in drawn])
    assert np.abs(render(view, [data] * 50, drawn) - expected).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pixels(kind):
    data = encoded(photo(2, 120, 120), kind)
    view, drawn = View(crop="none", size=120), Drawn(0, 0, 120, 120)
    made = pixels(render(view, [data], [drawn]), view)[0]
    difference = np.abs(made - np.asarray(decode_rgb(data), np.float32).transpose(2, 0, 1))
    assert difference.mean() < 0.5
    assert difference.max() <= 4.01
    assert (dali_views.dali_bytes(data) == data) == (kind in ("jpeg", "grey", "exif"))


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_random_views_are_distributed_alike(name):
    view, data = DISTINCT[name].model_copy(update={"size": 32}), encoded(photo(0, 72, 96), "jpeg")
    image = decode_rgb(data)
    theirs = drawn_views(view, DRAWS, image.height, image.width, seed=1)
    ours = drawn_views(view, DRAWS, image.height, image.width, seed=2)
    expected = measured(np.stack([apply_torchvision(view, one, image) for one in theirs]), view)
    made = measured(render(view, [data] * DRAWS, ours), view)
    areas = [np.array([one.height * one.width for one in drawn]) for drawn in (theirs, ours)]
    distances = {what: ks_2samp(expected[what], made[what]).statistic for what in expected}
    distances["area"] = ks_2samp(*areas).statistic
    print(name, {what: round(float(value), 3) for what, value in distances.items()})
    assert max(distances.values()) < ks_limit(DRAWS), distances
