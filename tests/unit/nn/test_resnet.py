"""The slimmable ResNet: sizes, sharing, weights on disk."""

import pytest
import torch
import torchvision

from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.nn.counts import count_macs, count_parameters
from slimclr.nn.weights import load_backbone, save_weights

WIDTHS = (1.0, 0.75, 0.5, 0.25)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return SlimmableResNet(14, 16, WIDTHS, zero_init_residual=False)


def test_resnet50_has_the_published_size():
    backbone = SlimmableResNet()
    plain = torchvision.models.resnet50()
    plain.fc = torch.nn.Identity()
    assert count_parameters(backbone, 1.0) == sum(parameter.numel() for parameter in plain.parameters())
    # FLOPs 4.1G / 2.3G / 1.1G / 278M: JiahuiYu/slimmable_networks, README
    macs = [count_macs(backbone, width, image_size=224) for width in WIDTHS]
    assert macs == pytest.approx([4.1e9, 2.3e9, 1.1e9, 278e6], rel=0.05)


def test_one_width_equals_torchvisions_resnet():
    ours, plain = SlimmableResNet(50, 64, [1.0], zero_init_residual=False), torchvision.models.resnet50()
    ours.load_state_dict(dict(zip(ours.state_dict(), list(plain.state_dict().values())[:-2], strict=True)))
    plain.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_gives_its_share_of_features(small, width):
    assert small(torch.randn(2, 3, 32, 32), width).shape == (2, 512 * width)
    maps = small.feature_maps(torch.randn(2, 3, 32, 32), width)
    assert [tuple(x.shape[1:]) for x in maps] == [(64 * 2**i * width, 8 // 2**i, 8 // 2**i) for i in range(4)]


def test_a_sub_network_uses_no_channel_outside_its_own(small):
    images = torch.randn(2, 3, 32, 32)
    small.eval()
    before = small(images, 0.5)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if parameter.dim() == 4:
                parameter[parameter.shape[0] // 2 :] += 1.0
            elif "0_5" not in name:
                parameter += 1.0
    assert torch.equal(small(images, 0.5), before)
    assert not torch.equal(small(images, 1.0)[:, :256], before)


def test_the_last_batch_norm_of_a_block_starts_at_zero():
    backbone = SlimmableResNet(14, 16, WIDTHS)
    last = [p for name, p in backbone.named_parameters() if ".bn3." in name and name.endswith("weight")]
    assert len(last) == 4 * len(WIDTHS)
    assert all(parameter.eq(0).all() for parameter in last)


@pytest.mark.parametrize("widths", [(1.0, 0.3), (1.0, 0.01)])
def test_a_width_without_whole_channels_is_refused(widths):
    with pytest.raises(ValueError, match="not a whole number"):
        SlimmableResNet(14, 16, widths)


def test_weights_on_disk_give_the_same_features(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {f"backbone.{name}": tensor for name, tensor in small.state_dict().items()}
    save_weights(path, tensors, {"depth": 14, "base_width": 16, "widths": list(WIDTHS)})
    loaded, meta = load_backbone(path)
    images = torch.randn(2, 3, 32, 32)
    for width in WIDTHS:
        assert torch.equal(loaded(images, width), small.eval()(images, width))
    assert meta["depth"] == 14


def test_weights_that_do_not_fit_are_refused(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {f"backbone.{name}": tensor for name, tensor in small.state_dict().items() if name != "conv1.weight"}
    save_weights(path, tensors, {"depth": 14, "base_width": 16, "widths": list(WIDTHS)})
    with pytest.raises(UserError, match=r"Missing key.*conv1.weight"):
        load_backbone(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_backbone(path)
    with pytest.raises(UserError, match="no such weights file"):
        load_backbone(tmp_path / "none.safetensors")
