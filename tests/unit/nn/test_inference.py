"""The frozen backbone for inference: the same features, from a copy that leaves the weights alone."""

import hashlib

import pytest
import torch
from torch import nn

from slimclr.nn import build_backbone
from slimclr.nn.inference import FrozenBackbone

CPU = torch.device("cpu")


def trained(depth=14, widths=(1.0, 0.5), **options):
    """A network whose batch norms are as after a training: every one different, some scales below 0."""
    torch.manual_seed(0)
    network = build_backbone(depth, 16, widths, **options)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, std=0.7)
            nn.init.normal_(norm.bias, std=0.2)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.3, 2)
    return network.eval()


def digest(network):
    state = network.state_dict()
    return hashlib.sha256(b"".join(name.encode() + state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


@torch.no_grad()
def wanted(network, images):
    return {width: network(images, width) for width in network.widths}


@pytest.mark.parametrize(
    ("depth", "widths", "options"),
    [(14, (1.0, 0.75, 0.25), {}), (14, (1.0, 0.5, 0.25), {"overlap": False}), (20, (1.0, 0.5), {})],
)
def test_features_of_all_widths_equal_the_backbones(depth, widths, options):
    network, images = trained(depth, widths, **options), torch.randn(5, 3, 48, 48)
    before = digest(network)
    features = FrozenBackbone(network, CPU)(images)
    for width, rows in wanted(network, images).items():
        assert features[width].shape == (5, round(network.out_features * width))
        torch.testing.assert_close(features[width], rows, rtol=1e-5, atol=1e-5 * rows.abs().max().item())
    assert digest(network) == before


def test_several_of_the_widths_on_request():
    network, images = trained(14, (1.0, 0.75, 0.5)), torch.randn(2, 3, 32, 32)
    everything = FrozenBackbone(network, CPU)
    some = FrozenBackbone(network, CPU, widths=[0.5, 1.0])
    assert some.widths == (1.0, 0.5)
    assert list(everything(images, [0.75])) == [0.75]
    assert torch.equal(some(images)[0.5], everything(images)[0.5])
    with pytest.raises(ValueError, match=r"widths \[0.3\]: the network has 1.0, 0.75, 0.5"):
        FrozenBackbone(network, CPU, widths=[0.3])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_comes_as_fp32(precision):
    network, images = trained(), torch.randn(4, 3, 32, 32)
    features = FrozenBackbone(network, CPU, precision=precision)(images)
    for width, rows in wanted(network, images).items():
        assert features[width].dtype == torch.float32
        assert 1e-5 < (features[width] - rows).norm() / rows.norm() < 0.03
    with pytest.raises(ValueError, match="precision int8 is not one of fp32, fp16, bf16"):
        FrozenBackbone(network, CPU, precision="int8")


@pytest.mark.slow
def test_compiled_features_are_the_same():
    network, images = trained(widths=(1.0,)), torch.randn(4, 3, 32, 32)
    before = digest(network)
    plain, compiled = (FrozenBackbone(network, CPU, compiled=compiled)(images) for compiled in (False, True))
    for width, rows in plain.items():
        torch.testing.assert_close(compiled[width], rows, rtol=1e-4, atol=1e-5)
    assert digest(network) == before


def test_a_classifier_can_be_trained_on_the_features():
    layer = nn.Linear(512, 3)
    features = FrozenBackbone(trained(), CPU)(torch.randn(2, 3, 32, 32))[1.0]
    layer(features).sum().backward()
    assert layer.weight.grad is not None
    assert not features.requires_grad
