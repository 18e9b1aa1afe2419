"""Which loader a recipe gets."""

import pytest
import torch

from slimclr.build import loader
from slimclr.build.loader import chosen_backend
from slimclr.config import Pretrain
from slimclr.data.views import tensor
from slimclr.engine.distributed import Process

GPU, CPU = (Process(0, 1, torch.device(kind)) for kind in ("cuda", "cpu"))


def test_a_recipe_that_says_nothing_gets_the_fastest_on_gpus_and_the_published_one_on_a_cpu(capsys):
    assert Pretrain.model_fields["loader"].default == "auto"
    assert chosen_backend("auto", GPU) == "torchvision_tensor"
    assert chosen_backend("auto", CPU) == "torchvision"
    assert chosen_backend("dali", GPU) == "dali"
    assert capsys.readouterr().out == ""


def test_the_fall_back_is_one_line_of_the_log(monkeypatch, capsys):
    def missing(*_, **__):
        raise RuntimeError("decode_jpeg: torchvision not compiled with libjpeg support")

    monkeypatch.setattr(tensor, "decode_jpeg", missing)
    assert chosen_backend("auto", GPU) == "torchvision"
    assert chosen_backend("auto", Process(1, 2, torch.device("cuda"))) == "torchvision"
    (line,) = capsys.readouterr().out.splitlines()
    assert "cannot decode JPEGs" in line
    assert loader.decodes_jpegs() is False


@pytest.mark.parametrize("name", ["torchvision", "torchvision_tensor"])
def test_a_named_loader_is_taken(name):
    assert chosen_backend(name, GPU) == name
