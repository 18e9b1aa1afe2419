"""What makes a step cheaper must not change it."""

import copy
from contextlib import nullcontext

import pytest
import setuptools  # noqa: F401  # torch.compile needs it imported before distutils, which other tests may import
import torch
from torch._dynamo.utils import counters

from slimclr.nn import SlimmableCifarResNet, SlimmableConv2d, SlimmableResNet, resnet, widths_together
from slimclr.nn.compiled import compile_widths

WIDTHS = (1.0, 0.75, 0.5, 0.25)


def network(kind=SlimmableResNet, depth=14, overlap=True, widths=WIDTHS):
    torch.manual_seed(0)
    return kind(depth, 16, widths, zero_init_residual=False, overlap=overlap)


def step(backbone, images, *, shared, widths=WIDTHS):
    """Features and gradients of a step over all widths."""
    widths = [width for width in backbone.widths if width in widths]
    with widths_together(backbone, backbone.widths) if shared else nullcontext():
        known = backbone.first_convolutions(images, backbone.widths) if shared else {}
        features = {width: backbone(images, width, known.get(width)) for width in widths}
    sum(rows.square().mean() for rows in features.values()).backward()
    return features, {name: parameter.grad for name, parameter in backbone.named_parameters()}


def assert_equal_steps(one, other):
    for mine, its in zip(one, other, strict=True):
        assert mine.keys() == its.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(its[name], tensor, rtol=1e-4, atol=1e-5, msg=str(name))


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kind", "depth"), [(SlimmableResNet, 14), (SlimmableCifarResNet, 20)])
def test_work_that_widths_share_changes_nothing(kind, depth, layout, overlap):
    widths = WIDTHS if overlap else (1.0, 0.5, 0.25)
    backbone = network(kind, depth, overlap, widths)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=layout)
    other = copy.deepcopy(backbone)
    assert_equal_steps(step(backbone, images, shared=False), step(other, images, shared=True))
    # Nothing of it stays: the next width computed uses the weights of then.
    assert not any(layer.parts for layer in other.modules() if isinstance(layer, SlimmableConv2d))


@pytest.mark.parametrize("widths", [(1.0, 0.5), (0.5,), (0.5, 0.25)])
def test_widths_may_be_left_out(widths):
    backbone = network()
    images = torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(backbone)
    one, two = (step(net, images, shared=shared, widths=widths) for net, shared in ((backbone, False), (other, True)))
    assert_equal_steps(one, two)


def test_shared_weights_under_autocast_have_full_gradients():
    backbone = network()
    images = torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        (_, one), (_, two) = step(backbone, images, shared=False), step(other, images, shared=True)
    for name, gradient in one.items():
        assert two[name].dtype == torch.float32
        error = (two[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert error < 0.1, name


def test_the_layout_of_the_last_stage_changes_nothing(monkeypatch):
    monkeypatch.setattr(resnet, "_WIDE", 128)
    backbone = network()
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    other = copy.deepcopy(backbone)
    other.set_memory_formats(torch.device("cpu"))
    assert other.stages[3][0].conv2.weight.is_contiguous()
    assert not other.stages[2][0].conv2.weight.is_contiguous()
    assert_equal_steps(step(backbone, images, shared=True), step(other, images, shared=True))
    maps = other.feature_maps(images)
    assert maps[3].is_contiguous()
    assert maps[2].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shared", [False, True])
def test_activations_that_are_computed_again_change_nothing(shared):
    backbone = network()
    images = torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(backbone)
    other.checkpointing = True
    assert_equal_steps(step(backbone, images, shared=False), step(other, images, shared=shared))
    for (name, tensor), its in zip(backbone.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(tensor, its), name  # running statistics count each batch once


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_compiled_widths_are_compiled_once_and_change_nothing(shared):
    # In double precision: an untrained network makes much of single precision's last digits.
    backbone = network(widths=(1.0, 0.5)).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    other = copy.deepcopy(backbone)
    compile_widths(other)
    counters.clear()
    assert_equal_steps(step(backbone, images, shared=False), step(other, images, shared=shared))
    first = counters["stats"]["unique_graphs"]
    assert first == 2  # one for each width
    for _ in range(3):
        step(other, images, shared=shared)
    assert counters["stats"]["unique_graphs"] == first
