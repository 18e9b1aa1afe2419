"""What the comparison of loaders measures reacts to what it is named after, and to nothing that it is not."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.view_tools import ks_limit, measured, pixels, random_views
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.draw import Drawn
from slimclr.data.views.recipes import View, recipes

WHOLE = {"top": 0, "left": 0, "height": 48, "width": 48}


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(60, 190, (48, 48, 3), dtype=np.uint8) // np.array([1, 2, 3], np.uint8))


def values(image, **changes):
    view = View(crop="none", size=48)
    made = apply_torchvision(view, Drawn(**WHOLE, **changes), image).numpy()
    return {what: float(value[0]) for what, value in measured(made[None], view).items()}


def test_each_measure_follows_its_operation(image):
    plain = values(image)
    assert values(image, flip=True) == pytest.approx(plain, abs=0.01)
    assert values(image, colours=(("brightness", 0.5),))["brightness"] == pytest.approx(plain["brightness"] / 2, abs=1)
    assert values(image, colours=(("saturation", 0.5),))["saturation"] < 0.8 * plain["saturation"]
    turned = values(image, colours=(("hue", 0.1),))["hue"] - plain["hue"]
    assert turned == pytest.approx(36, abs=8)
    assert values(image, blur=1.0)["blur"] < 0.9 * plain["blur"]
    grey = values(image, colours=(("grey", 0.0),))
    assert (grey["hue"], grey["saturation"]) == (0, 0)


def test_no_view_of_a_recipe_is_forgotten_and_none_comes_twice():
    views = random_views()
    listed = {view for recipe in recipes().training.values() for view in recipe.views}
    listed |= {recipe.sub_networks for recipe in recipes().training.values() if recipe.sub_networks is not None}
    assert len(views) == len(listed)
    assert set(views.values()) == listed
    assert {view.size for view in random_views(image_size=16).values()} == {16}


def test_pixels_undo_the_normalisation(image):
    view = View(crop="none", size=48)
    made = apply_torchvision(view, Drawn(**WHOLE), image).numpy()
    assert pixels(made, view) == pytest.approx(np.asarray(image).transpose(2, 0, 1), abs=1e-3)


def test_the_limit_is_the_one_of_the_two_sample_test():
    assert ks_limit(2000) == pytest.approx(0.0617, abs=1e-4)
