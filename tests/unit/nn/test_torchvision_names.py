"""Plain ResNets with torchvision's names, as a checkpoint that is imported."""

import pytest
import torch
import torchvision
from torchvision.models.resnet import BasicBlock, Bottleneck

from slimclr.cli import main
from slimclr.nn.weights import load_backbone, read_weights


@pytest.fixture
def plain():
    torch.manual_seed(0)
    network = torchvision.models.ResNet(Bottleneck, [2, 2, 2, 2], num_classes=5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


def imported(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "plain.pth")
    code = main(["import", str(tmp_path / "plain.pth"), "--out", str(tmp_path / "weights.safetensors")])
    return code, tmp_path / "weights.safetensors"


def test_torchvisions_weights_are_a_supervised_run_of_width_1(plain, tmp_path):
    code, weights = imported(tmp_path, plain.state_dict())
    assert code == 0
    backbone, header = load_backbone(weights)
    assert (header["method"], header["depth"], header["widths"]) == ("supervised", 26, [1.0])
    tensors, _ = read_weights(weights)
    assert torch.equal(tensors["head.weight"], plain.fc.weight)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        classes = torch.nn.functional.linear(backbone(images), tensors["head.weight"], tensors["head.bias"])
        torch.testing.assert_close(classes, plain(images), rtol=1e-4, atol=1e-5)


def test_a_plain_moco_v2_is_taken(plain, tmp_path):
    """Names as in facebookresearch/moco's checkpoints."""
    head = {"fc.0.weight": torch.randn(2048, 2048), "fc.0.bias": torch.zeros(2048)}
    head |= {"fc.2.weight": torch.randn(128, 2048), "fc.2.bias": torch.zeros(128)}
    query = {name: tensor for name, tensor in plain.state_dict().items() if not name.startswith("fc.")} | head
    state = {f"module.encoder_{part}.{name}": tensor for part in "qk" for name, tensor in query.items()}
    code, weights = imported(
        tmp_path, state | {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1)}
    )
    assert code == 0
    backbone, header = load_backbone(weights)
    assert header["method"] == "mocov2"
    assert torch.equal(backbone.stages[1][0].shortcut_conv.weight, plain.layer2[0].downsample[0].weight)


def test_a_resnet_of_other_blocks_is_refused_with_the_list(tmp_path, capsys):
    code, weights = imported(tmp_path, torchvision.models.ResNet(BasicBlock, [2, 2, 2, 2]).state_dict())
    assert code == 2
    assert not weights.exists()
    said = capsys.readouterr().err
    assert "missing of resnet26" in said
    assert "layer1.0.conv3.weight" in said
    code, _ = imported(tmp_path, torchvision.models.ResNet(Bottleneck, [3, 4, 5, 3]).state_dict())
    assert code == 2
    assert "blocks of layer<n>: (3, 4, 5, 3)" in capsys.readouterr().err
