"""Linear probes: the loss, what moves, and how accuracies are counted."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from slimclr.data.loading.loaders import validation_loader
from slimclr.nn import SlimmableResNet
from slimclr.probe import LinearProbe, evaluate

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "functions.json").read_text())


def normal(tag):
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(tag.encode())))
    return torch.tensor(2 * rng.standard_normal((6, 17)), dtype=torch.float32)


def test_a_sub_widths_loss_is_half_labels_half_full_width():
    probe = LinearProbe(SlimmableResNet(14, 8, (1.0, 0.5)), 17)
    logits = {1.0: normal("teacher"), 0.5: normal("student")}
    probe.logits = lambda images, width: logits[width]
    output = probe([torch.zeros(6, 3, 8, 8)], torch.arange(6), 0.0)
    assert output.widths[0.5].loss.item() == pytest.approx(GOLDEN["probe_mixed_loss"]["loss"], rel=1e-4)


def test_only_the_classifiers_move():
    torch.manual_seed(0)
    probe = LinearProbe(SlimmableResNet(14, 8, (1.0, 0.5)), 3).train()
    before = {name: tensor.clone() for name, tensor in probe.state_dict().items()}
    optimizer = torch.optim.SGD(probe.trainable().parameters(), lr=1.0)
    probe([torch.randn(8, 3, 32, 32)], torch.arange(8) % 3, 0.0).loss.backward()
    optimizer.step()
    for name, tensor in probe.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("backbone"), name


def test_accuracies_count_every_image_once(images):
    class Fixed(torch.nn.Module):
        widths, classes = (1.0, 0.5), 8
        seen = 0

        def logits(self, batch, width):
            # Width 1.0 always says class 0, width 0.5 puts the right class second.
            self.seen += len(batch) if width == 1.0 else 0
            rows = torch.zeros(len(batch), 8)
            rows[:, 0 if width == 1.0 else 7] = 1.0
            return rows + torch.tensor([0.5, 0.5, 0.4, 0.3, 0.2, 0, 0, 0])

    probe = Fixed()
    loader = validation_loader(images, resize=36, image_size=32, batch=16, workers=0)
    got = evaluate(probe, loader, torch.device("cpu"))
    assert probe.seen == len(images) == 36
    assert got[1.0] == {"top1": 50.0, "top5": 100.0}
    assert got[0.5] == {"top1": 0.0, "top5": 100.0}
