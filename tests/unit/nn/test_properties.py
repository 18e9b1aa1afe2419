"""Properties of slimmable networks that must hold for any widths."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimclr.arch import width_channels
from slimclr.nn import MLP, MoCoV3Predictor, MoCoV3Projector, SimCLRHead, build_backbone
from slimclr.nn.counts import count_macs, count_parameters
from slimclr.nn.layers import SlimmableConv2d, SlimmableLinear, channel_slices, used_slices, width_key

BASE = 8
EIGHTHS = st.lists(st.integers(1, 7), min_size=1, max_size=4, unique=True)
few = settings(max_examples=12, deadline=None, derandomize=True)


@st.composite
def networks(draw):
    """Depth, widths in any order, and whether they overlap."""
    eighths = draw(EIGHTHS)
    overlap = draw(st.booleans()) or sum(eighths) > 8
    widths = draw(st.permutations([1.0, *(eighth / 8 for eighth in eighths)]))
    return draw(st.sampled_from([14, 20])), widths, overlap


def build(depth, widths, overlap):
    torch.manual_seed(0)
    return build_backbone(depth, BASE, widths, zero_init_residual=False, overlap=overlap).eval()


def expected_slice(channels, width, widths, overlap):
    """Which channels a width has, said once more: the first ones, or those after all narrower sub-networks'."""
    start = 0 if overlap or width == 1.0 else sum(round(channels * other) for other in widths if other < width)
    return slice(start, start + round(channels * width))


@few
@given(networks())
def test_a_sub_network_sees_and_moves_nothing_outside_its_slice(network):
    _, widths, overlap = network
    backbone = build(*network)
    images = torch.randn(2, 3, 16, 16)
    for width in widths:
        backbone.zero_grad()
        output = backbone(images, width)
        output.square().sum().backward()
        disturbed = copy.deepcopy(backbone)
        for (prefix, layer), other in zip(backbone.named_modules(), disturbed.modules(), strict=True):
            if not isinstance(layer, SlimmableConv2d):
                continue
            rows = expected_slice(layer.out_channels, width, widths, overlap)
            columns = slice(0, 3) if prefix == "conv1" else expected_slice(layer.in_channels, width, widths, overlap)
            outside = torch.ones_like(layer.weight, dtype=torch.bool)
            outside[rows, columns] = False
            assert layer.weight.grad[outside].eq(0).all()
            with torch.no_grad():
                other.weight[outside] = torch.nan
        for name, parameter in disturbed.named_parameters():
            if ".norms." in name and width_key(width) not in name.split("."):
                assert dict(backbone.named_parameters())[name].grad is None
                parameter.data.fill_(torch.nan)
        assert torch.equal(disturbed(images, width), output)


@few
@given(networks(), st.randoms(use_true_random=False))
def test_the_order_of_widths_does_not_matter(network, random):
    depth, widths, overlap = network
    other = list(widths)
    random.shuffle(other)
    first, second = build(depth, widths, overlap), build(depth, other, overlap)
    images = torch.randn(2, 3, 16, 16)
    assert first.widths == second.widths == tuple(sorted(widths, reverse=True))
    forwards = {width: first(images, width) for width in widths}
    backwards = {width: second(images, width) for width in reversed(other)}
    for width in widths:
        assert torch.equal(forwards[width], backwards[width])


def closed_form(depth, width, size):
    """Parameters and multiply-adds of a ResNet, added up layer by layer."""
    cifar = depth == 20
    parameters = macs = 0

    def layer(inputs, outputs, kernel, side):
        nonlocal parameters, macs
        parameters += inputs * outputs * kernel**2 + 2 * outputs  # with its batch norm's scale and shift
        macs += inputs * outputs * kernel**2 * side**2

    channels = round(BASE * width)
    side = size if cifar else size // 2
    layer(3, channels, 3 if cifar else 7, side)
    side = side if cifar else side // 2
    inputs = channels
    for stage in range(3 if cifar else 4):
        for block in range(3 if cifar else 1):
            stride = 2 if stage and not block else 1
            middle = channels * 2**stage
            outputs = middle * (1 if cifar else 4)
            if cifar:
                layer(inputs, middle, 3, side // stride)
                layer(middle, middle, 3, side // stride)
            else:
                layer(inputs, middle, 1, side)
                layer(middle, middle, 3, side // stride)
                layer(middle, outputs, 1, side // stride)
            if stride != 1 or inputs != outputs:
                layer(inputs, outputs, 1, side // stride)
            inputs, side = outputs, side // stride
    return parameters, macs


@few
@given(networks())
def test_counts_equal_the_closed_form(network):
    backbone = build(*network)
    for width in backbone.widths:
        counted = count_parameters(backbone, width), count_macs(backbone, width, image_size=64)
        assert counted == closed_form(network[0], width, 64)


@few
@given(networks())
@pytest.mark.parametrize("name", ["mocov2_slim", "mocov2_switch", "mocov3", "simclr"])
def test_a_heads_unused_part_has_no_gradient(name, network):
    _, widths, overlap = network
    heads = {
        "mocov2_slim": lambda: MLP(16, 4, widths, overlap=overlap),
        "mocov2_switch": lambda: MLP(16, 4, widths, switchable=True),
        "mocov3": lambda: MoCoV3Projector(16, 24, 4, widths, overlap=overlap),
        "simclr": lambda: SimCLRHead(16, 24, 4, widths, overlap=overlap),
    }
    head = heads[name]()
    for width in widths:
        head.zero_grad()
        used = used_slices(head, width)
        assert head(torch.randn(3, round(16 * width)), width).shape == (3, 4)
        head(torch.randn(3, round(16 * width)), width).square().sum().backward()
        for parameter_name, parameter in head.named_parameters():
            if parameter_name not in used:
                assert parameter.grad is None
            else:
                inside = used_slices_of(parameter.grad, used[parameter_name], parameter)
                assert parameter.grad.abs().sum() == pytest.approx(inside.abs().sum())


def used_slices_of(gradient, view, parameter):
    """The part of a gradient that a view of its parameter covers."""
    return torch.as_strided(gradient, view.shape, view.stride(), view.storage_offset() - parameter.storage_offset())


def test_the_predictor_keeps_the_embedding_whole():
    predictor = MoCoV3Predictor(4, 8, (1.0, 0.5, 0.25), overlap=False)
    assert predictor(torch.randn(3, 4), 0.25).shape == (3, 4)
    hidden = [layer.out_slices[0.5] for layer in predictor.modules() if isinstance(layer, SlimmableLinear)]
    assert hidden == [slice(2, 6), slice(0, 4)]


def test_disjoint_widths_must_fit():
    with pytest.raises(ValueError, match="add up to more than 1"):
        channel_slices(64, (1.0, 0.75, 0.5), overlap=False)
    assert width_channels(64, 0.75) == 48
