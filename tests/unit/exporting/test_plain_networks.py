"""A plain network computes what a width of the slimmable one does."""

import pytest
import torch
import torchvision

from slimclr.errors import UserError
from slimclr.exporting.comparison import difference
from slimclr.exporting.extract import extract
from slimclr.nn import classifier
from tests.helpers.small_network import network


@pytest.mark.parametrize(
    ("depth", "base_width", "widths", "overlap"),
    [(14, 16, (1.0, 0.75, 0.5, 0.25), True), (14, 16, (1.0, 0.5, 0.25), False), (20, 16, (1.0, 0.75, 0.25), True)],
)
@torch.no_grad()
def test_outputs_are_equal_at_every_width(depth, base_width, widths, overlap):
    backbone, images = network(depth, base_width, widths, overlap=overlap, size=32), torch.randn(3, 3, 32, 32)
    for width in widths:
        expected = backbone(images, width)
        assert difference(extract(backbone, width)(images), expected) < 1e-6
        folded = extract(backbone, width, fold=True)
        assert difference(folded(images), expected) < 1e-5
        assert not any("bn" in name for name in folded.state_dict())
        maps = extract(backbone, width).feature_maps(images)
        for own, theirs in zip(maps, backbone.feature_maps(images, width), strict=True):
            torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("switchable", [True, False])
@torch.no_grad()
def test_a_classifier_comes_along(switchable):
    backbone, images = network(size=32), torch.randn(3, 3, 32, 32)
    head = classifier(backbone.out_features, 5, backbone.widths, switchable=switchable)
    for width in backbone.widths:
        plain = extract(backbone, width, head)
        torch.testing.assert_close(plain(images), head(backbone(images, width), width))


def test_a_resnet50_is_torchvisions_and_a_narrow_one_has_its_share():
    backbone = network(50, 64, size=32)
    theirs = torchvision.models.resnet50(num_classes=7)
    full = extract(backbone, 1.0, classifier(2048, 7, backbone.widths, switchable=True)).eval()
    theirs.load_state_dict(full.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), full(images))
    quarter = sum(tensor.numel() for tensor in extract(backbone, 0.25).parameters())
    assert quarter == 1_480_976  # 0.06 of 23.5 M


def test_a_width_that_was_not_trained_is_named():
    with pytest.raises(UserError, match=r"width 0\.3: these weights were trained at 1\.0, 0\.75, 0\.5, 0\.25; "):
        extract(network(size=32), 0.3)


def test_outputs_of_zero_differ_by_nothing_and_what_is_no_number_differs():
    zero = torch.zeros(2, 3)
    assert difference(zero, zero) == 0
    assert not difference(zero * float("nan"), zero) < 1e-5
    assert not difference(torch.ones(2, 3), zero) < 1e-5
