"""What an exported config of mmdet's runs, whoever named the network."""

import ast

import torch

from slimclr.exporting.formats.mmdet import CONFIG, write_mmdet


def test_a_name_is_no_code(tmp_path):
    network = {"layers": [3, 4, 6, 3], "channels": 16, "small_images": False, "folded": False}
    write_mmdet({"conv1.weight": torch.zeros(1)}, network, tmp_path, name='"""\nimport os\nos.abort()\n"""\\')
    body = ast.parse((tmp_path / CONFIG).read_text()).body
    assert [type(part) for part in body] == [ast.Expr, ast.Assign, ast.Assign]
    assert "import os" in ast.get_docstring(ast.Module(body, []))
