"""Classifiers of a probe on disk."""

import json

import pytest
import torch
from safetensors import safe_open

from slimclr.errors import UserError
from slimclr.nn import classifier
from slimclr.nn.weights import read_tensors, save_weights, write_tensors
from slimclr.probe.classifier import Trained, load_classifier, save_classifier

WIDTHS = (1.0, 0.5)
TRAINED = Trained(
    classes=("n01440764", "n02102040", "n02979186"),
    backbone_sha256="ab" * 32,
    arch="resnet14w16",
    resize=256,
    image_size=224,
    views="normal",
    batch=256,
)


@pytest.fixture
def file(tmp_path):
    head = classifier(8, 3, WIDTHS, switchable=True)
    save_classifier(tmp_path / "classifier.safetensors", head, widths=WIDTHS, trained=TRAINED)
    return tmp_path / "classifier.safetensors"


@pytest.mark.parametrize("switchable", [True, False])
def test_a_classifier_comes_back_width_by_width(tmp_path, switchable):
    head = classifier(8, 3, WIDTHS, switchable=switchable)
    save_classifier(tmp_path / "c.safetensors", head, widths=WIDTHS, trained=TRAINED)
    again, widths, trained = load_classifier(tmp_path / "c.safetensors")
    assert (widths, trained) == (WIDTHS, TRAINED)
    for width in WIDTHS:
        features = torch.randn(5, round(8 * width))
        assert torch.allclose(again(features, width), head(features, width))


def test_other_tools_find_the_tensors_by_width_and_the_classes_in_the_header(file):
    with safe_open(file, framework="pt") as tensors:
        assert set(tensors.keys()) == {"1.0.weight", "1.0.bias", "0.5.weight", "0.5.bias"}
        assert tensors.get_tensor("0.5.weight").shape == (3, 4)
        assert json.loads(tensors.metadata()["classes"]) == list(TRAINED.classes)
        assert json.loads(tensors.metadata()["widths"]) == list(WIDTHS)
        assert tensors.metadata()["backbone_sha256"] == TRAINED.backbone_sha256


def damaged(file, *, tensors=None, **metadata):
    old_tensors, old = read_tensors(file)
    kept = {key: value for key, value in (old | metadata).items() if value is not None}
    write_tensors(file, old_tensors if tensors is None else tensors(old_tensors), kept)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"classes": None}, "lacks or garbles 'classes'"),
        ({"resize": "wide"}, "lacks or garbles"),
        ({"widths": "[]"}, "not those of the widths"),
        ({"widths": "[1.0]"}, r"not those of the widths in its header \(0.5.bias\)"),
        ({"classes": '["a"]'}, "not of the shapes"),
        ({"tensors": lambda old: old | {"1.0.weight": torch.full((3, 8), torch.nan)}}, "1.0.weight is not finite"),
        ({"tensors": lambda old: {}}, "not those of the widths"),
    ],
)
def test_a_file_that_is_no_classifier_is_refused(file, change, told):
    damaged(file, **change)
    with pytest.raises(UserError, match=told):
        load_classifier(file)


def test_weights_and_missing_files_are_no_classifiers(tmp_path):
    save_weights(tmp_path / "weights.safetensors", {"a": torch.zeros(2)}, {"run": "r"})
    with pytest.raises(UserError, match="weights of a network, not a classifier"):
        load_classifier(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_classifier(tmp_path / "text.safetensors")
    with pytest.raises(UserError, match="no such classifier"):
        load_classifier(tmp_path / "none.safetensors")
