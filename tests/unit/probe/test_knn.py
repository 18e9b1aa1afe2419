"""The nearest-neighbour monitor."""

import pytest
import torch

from slimclr.config import KNN
from slimclr.engine.distributed import Process
from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.probe.knn import KNNMonitor
from tests.helpers.memory_images import MemoryImages

ALONE = Process(0, 1, torch.device("cpu"))


def test_every_width_is_evaluated_and_nothing_is_changed(images):
    backbone = SlimmableResNet(14, 8, (1.0, 0.5))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    settings = KNN(bank=20, queries=10, neighbours=3)
    monitor = KNNMonitor(settings, backbone, images, image_size=32, seed=0, process=ALONE)
    values = monitor()["knn"]
    assert set(values) == {"1.0", "0.5"}
    assert all(value in [10.0 * n for n in range(11)] for value in values.values())
    assert monitor()["knn"] == values
    assert backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_bank_and_queries_shrink_to_the_data_with_a_line(images, capsys):
    monitor = KNNMonitor(KNN(), SlimmableResNet(14, 8), images, image_size=32, seed=0, process=ALONE)
    assert capsys.readouterr().out == (
        "pretrain.knn: bank and queries ask for 12,000 images, the training set has 36: bank 30, queries 6\n"
    )
    assert monitor()["knn"]["1.0"] in [round(100 * right / 6, 4) for right in range(7)]


def test_one_image_is_not_enough():
    with pytest.raises(UserError, match="needs two images, the training set has 1; leave knn out"):
        KNNMonitor(KNN(), SlimmableResNet(14, 8), MemoryImages(1), image_size=32, seed=0, process=ALONE)
