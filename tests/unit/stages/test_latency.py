"""What `slimclr latency` measures and writes, and what is refused."""

import json
import sys

import pytest

from slimclr.cli import main
from slimclr.nn import build_backbone
from slimclr.nn.weights import save_weights
from tests.helpers.small_network import write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    results = tmp_path_factory.mktemp("slim") / "results"
    write_run(results, size=32)
    return results


def measured(tmp_path, source, *arguments):
    out = tmp_path / "metrics.json"
    command = ["latency", str(source), "--out", str(out), "--threads", "1", *map(str, arguments)]
    assert main(command) == 0
    return json.loads(out.read_text())


def test_every_width_engine_precision_and_batch_is_measured(results, tmp_path, capsys):
    engines = ["--engine", "eager", "onnxruntime", "--repeats", 3, "--batch", 1, 2, "--width", 0.5, 0.25]
    found = measured(tmp_path, "slim", "--results", results, *engines)
    assert [(row["engine"], row["batch"], row["width"]) for row in found["measured"]] == [
        (engine, batch, width) for engine in ("eager", "onnxruntime") for batch in (1, 2) for width in (0.5, 0.25)
    ]
    assert all(0 < row["ms_low"] <= row["ms"] <= row["ms_high"] for row in found["measured"])
    assert (found["stage"], found["run"], found["image_size"], found["threads"]) == ("latency", "slim", 32, 1)
    first = found["measured"][0]
    assert found["widths"]["0.5"]["latency_ms"] == first["ms"]
    assert found["widths"]["0.5"]["images_per_s"] == max(
        row["images_per_s"] for row in found["measured"] if (row["engine"], row["width"]) == ("eager", 0.5)
    )
    assert "onnxruntime fp32" in capsys.readouterr().out


def test_a_quarter_of_a_resnet50_is_faster(tmp_path):
    backbone = build_backbone(50, 64, (1.0, 0.25))
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    save_weights(tmp_path / "weights.safetensors", tensors, {"run": "drawn", **backbone.shape})
    found = measured(tmp_path, tmp_path / "weights.safetensors", "--repeats", 5, "--batch", 4, "--image-size", 64)
    # A fifteenth of the multiply-adds; four times holds on a busy machine, too.
    assert found["widths"]["1.0"]["latency_ms"] > 2 * found["widths"]["0.25"]["latency_ms"]


def test_what_cannot_be_measured_is_one_line(results, tmp_path, capsys, monkeypatch):
    common = ["latency", "slim", "--results", str(results), "--repeats", "1", "--width", "0.25", "--engine"]

    def refused(*arguments):
        assert main([*common, *arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
        assert len(lines) == 1
        return lines[0]

    assert "fp32 on the CPU alone" in refused("onnxruntime", "--precision", "bf16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "--engine onnxruntime: needs the package onnxruntime; install it: " in refused("onnxruntime")
