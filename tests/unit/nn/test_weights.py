"""Weights whose header is damaged are named in one line."""

import json

import pytest
from safetensors.torch import save_file

from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import load_backbone

SHAPE = {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ('{"depth": 14', "its header is damaged"),
        ("[" * 100_000, "its header is damaged"),
        ("[14]", "its header is damaged"),
        (json.dumps(SHAPE | {"depth": "x"}), "its header names no network"),
        (json.dumps(SHAPE | {"depth": 7}), "its header names no network"),
        (json.dumps(SHAPE | {"widths": None}), "its header names no network"),
        (json.dumps({"dep\x00h": 14}), "its header names no network (KeyError: 'depth')"),
        (json.dumps(SHAPE | {"base_width": 16}), "does not fit"),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path, header, said):
    tensors = {f"backbone.{name}": tensor for name, tensor in SlimmableResNet(14, 8, (1.0, 0.5)).state_dict().items()}
    save_file(tensors, tmp_path / "weights.safetensors", {"slimclr": header})
    with pytest.raises(UserError) as error:
        load_backbone(tmp_path / "weights.safetensors")
    assert said in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/weights.safetensors: ")
