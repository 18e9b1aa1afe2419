"""Several probes on the same features: each equals the probe of its own, and one is chosen on held-out images."""

import pytest
import torch
from torch import nn

from slimclr.build.optimizer import build_optimizer
from slimclr.config import Optimizer
from slimclr.data.loading.loaders import validation_loader
from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.probe import LinearProbe
from slimclr.probe.grid import Candidate, GridProbe, choose, chosen_head, evaluate_candidates, module_features

CPU, WIDTHS = torch.device("cpu"), (1.0, 0.5)


def backbone():
    torch.manual_seed(0)
    return SlimmableResNet(14, 8, WIDTHS)


def grid(*candidates, **options):
    network = backbone()
    torch.manual_seed(1)
    return GridProbe(module_features(network), network, 5, candidates, **options)


def batches(count):
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 5) for _ in range(count)]


def trained(probe, settings, groups=None):
    optimizer = build_optimizer(settings, probe.trainable(), groups=groups)
    probe.train()
    for images, labels in batches(4):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * group.get("lr_scale", 1.0)
        optimizer.zero_grad()
        probe([images], labels, 0.0).loss.backward()
        optimizer.step()
    return probe


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_each_candidate_is_the_probe_of_its_rate_and_decay(name):
    candidates = [Candidate("switchable", lr, decay) for lr in (0.1, 3.0) for decay in (0.0, 0.01)]
    base = Optimizer(name=name, lr=0.1, weight_decay=0.0)
    probe = grid(*candidates)
    trained(probe, base, probe.parameter_groups())
    for candidate, head in zip(candidates, probe.heads, strict=True):
        torch.manual_seed(0)
        network = SlimmableResNet(14, 8, WIDTHS)
        torch.manual_seed(1)
        alone = LinearProbe(network, 5)
        trained(alone, Optimizer(name=name, lr=candidate.lr, weight_decay=candidate.weight_decay))
        for key, tensor in alone.classifier.state_dict().items():
            torch.testing.assert_close(head.state_dict()[key], tensor, rtol=1e-4, atol=1e-5)


def test_without_soft_labels_a_narrow_width_does_not_see_the_full_one():
    images, labels = batches(1)[0]
    for soft_labels in (True, False):
        probe = grid(Candidate("switchable", 0.1, 0.0), soft_labels=soft_labels)
        losses = []
        for _ in range(2):
            losses.append(probe([images], labels, 0.0).widths[0.5].loss.item())
            with torch.no_grad():
                probe.heads[0].linears["1_0"].weight.add_(torch.randn(5, 256))
        assert (losses[0] != losses[1]) == soft_labels


def test_a_slimmable_layer_is_one_matrix_that_narrow_widths_use_a_part_of():
    probe = grid(Candidate("switchable", 0.1, 0.0), Candidate("slimmable", 0.1, 0.0))
    assert sum(parameter.numel() for parameter in probe.heads[1].parameters()) == 5 * 256 + 5
    features = probe.features(torch.randn(3, 3, 32, 32))
    narrow = probe.logits(features[0.5], 0.5)[:, 1]
    weight, bias = probe.heads[1].weight, probe.heads[1].bias
    torch.testing.assert_close(narrow, features[0.5] @ weight[:, :128].T + bias)


def test_one_that_diverges_disturbs_no_other(images):
    settings = Optimizer(lr=0.1, weight_decay=0.0)
    calm, wild = Candidate("switchable", 0.1, 0.0), Candidate("switchable", 1e30, 1.0)
    both, alone = grid(calm, wild), grid(calm)
    for probe in (both, alone):
        trained(probe, settings, probe.parameter_groups())
    assert both.diverged() == [False, True]
    for key, tensor in alone.heads[0].state_dict().items():
        torch.testing.assert_close(both.heads[0].state_dict()[key], tensor, rtol=1e-4, atol=1e-5)
    loss = both([batches(1)[0][0]], batches(1)[0][1], 0.0).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in both.parameters())
    loader = validation_loader(images, resize=36, image_size=32, batch=16, workers=0)
    found = evaluate_candidates(both, loader, CPU)
    assert found[0].keys() == set(WIDTHS)
    assert found[1] is None


def top1(full, half):
    return {1.0: {"top1": full}, 0.5: {"top1": half}}


def test_each_width_chooses_for_itself_and_a_shared_layer_by_the_mean():
    candidates = [Candidate(layer, lr, 0.0) for layer in ("switchable", "slimmable") for lr in (1.0, 2.0, 3.0)]
    held_out = [top1(50, 50), top1(60, 40), None, top1(50, 50), top1(60, 41), top1(60, 41)]
    assert choose(candidates, held_out, "switchable") == {1.0: 1, 0.5: 0}
    assert choose(candidates, held_out, "slimmable") == {1.0: 4, 0.5: 4}
    with pytest.raises(UserError, match="every switchable classifier diverged; lower"):
        choose(candidates, [None] * 3 + held_out[3:], "switchable")


def test_the_chosen_classifiers_are_put_together():
    probe = grid(Candidate("switchable", 1.0, 0.0), Candidate("switchable", 2.0, 0.0))
    for head in probe.heads:
        for parameter in head.parameters():
            nn.init.normal_(parameter)
    network = backbone()
    head = chosen_head(probe, network, {1.0: 1, 0.5: 0})
    features = probe.features(torch.randn(3, 3, 32, 32))
    for width, index in ((1.0, 1), (0.5, 0)):
        torch.testing.assert_close(head(features[width], width), probe.logits(features[width], width)[:, index])
