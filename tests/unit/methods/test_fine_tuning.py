"""Fine-tuning: which widths are computed, move and are exported, and the two learning rates."""

import pytest
import torch
import torch.nn.functional as F

from slimclr.build.optimizer import build_optimizer
from slimclr.config import Optimizer
from slimclr.engine.loop import LR_SCALE
from slimclr.methods import SubNetworkLoss
from slimclr.methods.finetune import FineTuning
from slimclr.nn import SlimmableResNet

EVERY = (1.0, 0.75, 0.5, 0.25)


def built(widths, *, classifier="switchable", overlap=True, every=EVERY):
    torch.manual_seed(0)
    backbone = SlimmableResNet(14, 8, every, overlap=overlap)
    combine = SubNetworkLoss(dict.fromkeys(widths, 1.0))
    method = FineTuning(backbone, classes=3, widths=widths, classifier=classifier, combine=combine)
    method.require_gradients(0)
    return method.train()


@pytest.mark.parametrize("widths", [(0.5,), (1.0, 0.25), EVERY])
def test_only_what_the_widths_use_moves_and_their_losses_are_added(widths):
    method = built(widths)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    optimizer = build_optimizer(Optimizer(lr=0.1, momentum=0.0, weight_decay=0.0), method.trainable())
    output = method([images], labels, 0.0)
    assert list(output.widths) == sorted(widths, reverse=True)
    twin = built(widths)
    wanted = sum(F.cross_entropy(twin.logits(images, width), labels) for width in widths)
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    output.loss.backward()
    optimizer.step()
    moved = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    keys = {str(width).replace(".", "_"): width for width in EVERY}
    for name in before:
        owner = [width for key, width in keys.items() if key in name.split(".")]
        if owner and owner[0] not in widths:
            assert name not in moved, name
    heads = {f"encoder.head.linears.{str(width).replace('.', '_')}.weight" for width in widths}
    assert {name for name in moved if "head" in name and name.endswith("weight")} == heads
    wide = max(widths)
    weight, old = method.encoder.backbone.conv1.weight, before["encoder.backbone.conv1.weight"]
    unused = slice(round(8 * wide), None)
    assert torch.equal(weight[unused], old[unused])
    assert not torch.equal(weight[: round(8 * wide)], old[: round(8 * wide)])


def test_the_export_is_a_network_of_the_trained_widths_and_the_full_one():
    method = built((0.5,))
    assert method.exported_widths() == (1.0, 0.5)
    network = SlimmableResNet(14, 8, method.exported_widths())
    tensors = method.exported()
    network.load_state_dict({n.removeprefix("backbone."): t for n, t in tensors.items() if n.startswith("backbone.")})
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(images, 0.5), method.eval().encoder.backbone(images, 0.5))
    # Where sub-networks share no channels, leaving one out would move the others.
    apart = built((0.5,), overlap=False, every=(1.0, 0.5, 0.25))
    assert apart.exported_widths() == (1.0, 0.5, 0.25)


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_the_classifier_has_its_own_learning_rate(name):
    method = built((1.0,), classifier="slimmable")
    settings = Optimizer(name=name, lr=0.02)
    optimizer = build_optimizer(settings, method.trainable(), head=method.encoder.head, head_lr=0.5)
    backbone, head = optimizer.param_groups
    assert [id(p) for p in head["params"]] == [id(p) for p in method.encoder.head.parameters()]
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in method.parameters()}
    assert len(backbone["params"]) + len(head["params"]) == len(list(method.parameters()))
    assert settings.lr * head[LR_SCALE] == pytest.approx(0.5)
    assert LR_SCALE not in backbone
