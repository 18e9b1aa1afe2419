"""What makes a step cheaper must not change it."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from slimclr.nn import SlimmableCifarResNet, SlimmableResNet
from slimclr.nn.compiled import compile_widths

WIDTHS = (1.0, 0.75, 0.5, 0.25)


def network(kind=SlimmableResNet, depth=14, overlap=True, widths=WIDTHS):
    torch.manual_seed(0)
    return kind(depth, 16, widths, zero_init_residual=False, overlap=overlap)


def step(backbone, images, *, shared):
    """Features and gradients of a step over all widths."""
    known = backbone.conv1(images) if shared else None
    features = {width: backbone(images, width, known) for width in backbone.widths}
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
def test_a_shared_first_convolution_changes_nothing(kind, depth, layout, overlap):
    widths = WIDTHS if overlap else (1.0, 0.5, 0.25)
    backbone = network(kind, depth, overlap, widths)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=layout)
    other = copy.deepcopy(backbone)
    assert_equal_steps(step(backbone, images, shared=False), step(other, images, shared=True))


def test_activations_that_are_computed_again_change_nothing():
    backbone = network()
    images = torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(backbone)
    other.checkpointing = True
    assert_equal_steps(step(backbone, images, shared=False), step(other, images, shared=False))
    for (name, tensor), its in zip(backbone.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(tensor, its), name  # running statistics count each batch once


@pytest.mark.slow
def test_compiled_widths_are_compiled_once_and_change_nothing():
    # In double precision: an untrained network makes much of single precision's last digits.
    backbone = network(widths=(1.0, 0.5)).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    other = copy.deepcopy(backbone)
    compile_widths(other)
    counters.clear()
    assert_equal_steps(step(backbone, images, shared=False), step(other, images, shared=False))
    first = counters["stats"]["unique_graphs"]
    assert first == 2  # one for each width
    for _ in range(3):
        step(other, images, shared=False)
    assert counters["stats"]["unique_graphs"] == first
