"""Checkpoints of the reference implementation become weights files, or are refused whole."""

import argparse
import hashlib
import json
import os
from collections import OrderedDict, defaultdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from slimclr.cli import main
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.stores.folder import FolderImages
from slimclr.errors import UserError
from slimclr.external_weights import external_runs
from slimclr.nn import MLP, build_backbone
from slimclr.nn.counts import count_macs, count_parameters
from slimclr.nn.reference import our_name, reference_name
from slimclr.nn.weights import load_backbone, read_weights, save_weights
from slimclr.probe import OwnClassifier
from slimclr.probe.opened import open_classifier
from tests.helpers.golden_inputs import backbone_names, head_names, images
from tests.helpers.reference_checkpoints import BASE, DEPTH, HEADS, WIDTHS, made, saved
from tests.parity import SINGLE, relative

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "open.json").read_text())


def extras(state, prefix, copy):
    """What a pre-training checkpoint holds besides: queue, key encoder and predictor."""
    queue = {"module.queue": torch.zeros(12, 64), "module.queue_ptr": torch.zeros(1)}
    predictor = {"module.predictor.0.weight": torch.zeros(8, 12), "module.predictor.1.bn.0.weight": torch.ones(8)}
    return state | queue | predictor | {name.replace(prefix, copy): tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def small():
    return made("mocov2_slim", "encoder_q.")


def refused(capsys, arguments, out):
    """The error of an import that must fail and leave nothing."""
    assert main(["import", *map(str, arguments), "--out", str(out)]) == 2
    assert not out.exists()
    assert not list(out.parent.glob(f"{out.name}*"))
    return capsys.readouterr().err


def same_outputs(encoder, weights, size=64):
    """The imported backbone computes what the encoder does; gives the header."""
    backbone, header = load_backbone(weights)
    assert backbone.widths == encoder.backbone.widths
    batch = images("eval", 2, size)
    with torch.no_grad():
        for width in backbone.widths:
            assert torch.equal(backbone(batch, width), encoder.backbone(batch, width))
    tensors, _ = read_weights(weights)
    assert tensors.keys() == encoder.state_dict().keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensors[name], tensor), name
    return header


def golden(weights, case):
    backbone, _ = load_backbone(weights)
    batch = images(case["tag"], 4, case["size"])
    for width in case["widths"]:
        with torch.no_grad():
            features = backbone(batch, width)
        assert relative(features[:, :8], case["features_head"][str(width)]) < SINGLE
        assert relative(features.norm(dim=1), case["features_norm"][str(width)]) < SINGLE
        yield width, features


# ------------------------------------------------------------------------------------------------- golden figures


def test_a_mocov2_resnet50_gives_the_references_features(tmp_path, capsys):
    case = next(case for case in GOLDEN["encoder"] if case["name"] == "encoder_mocov2_head")
    _, state = made("mocov2_slim", "encoder_q.", depth=50, base=64, out=128)
    file = saved(tmp_path, extras(state, "encoder_q.", "encoder_k."), name="slimclr-mocov2.pth.tar")
    del state
    out = tmp_path / "weights.safetensors"
    assert main(["import", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mocov2" in printed
    assert "resnet50, widths 1.0, 0.75, 0.5, 0.25" in printed
    assert "2 of queue" in printed
    assert "no hash" in printed
    tensors, header = read_weights(out)
    assert header == {
        "schema": 1,
        "run": tmp_path.name,
        "stage": "import",
        "seed": None,
        "method": "mocov2",
        "depth": 50,
        "base_width": 64,
        "widths": [1.0, 0.75, 0.5, 0.25],
        "overlap": True,
        "source": "slimclr-mocov2.pth.tar",
        "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    head = MLP(2048, 128, header["widths"])
    head.load_state_dict({name[len("head.") :]: tensor for name, tensor in tensors.items() if name.startswith("head.")})
    for width, features in golden(out, case):
        assert relative(head(features, width)[:, :8].detach(), case["output_head"][str(width)]) < SINGLE


@pytest.mark.slow
def test_a_probe_gives_the_references_features_and_logits(tmp_path):
    case = next(case for case in GOLDEN["encoder"] if case["name"] == "encoder_switchable_probe")
    _, state = made("supervised_switch", "", depth=50, base=64, out=1000)
    out = tmp_path / "weights.safetensors"
    assert main(["import", str(saved(tmp_path, state)), "--out", str(out)]) == 0
    assert read_weights(out)[1]["method"] == "probe"
    own = open_classifier(out).classifier  # what `slimclr evaluate` asks
    assert own.classes == 1000
    for width, _ in golden(out, case):
        with torch.no_grad():
            logits = own.logits(images(case["tag"], 4, case["size"]), width)
        assert relative(logits[:, :8], case["output_head"][str(width)]) < SINGLE


# --------------------------------------------------------------------------------------------------------- namings


@pytest.mark.parametrize(
    ("head", "prefix", "copy", "method"),
    [
        ("mocov2_slim", "encoder_q.", "encoder_k.", "mocov2"),
        ("mocov2_switch", "encoder_q.", "encoder_k.", "mocov2"),
        ("mocov3_slim", "base_encoder.", "momentum_encoder.", "mocov3"),
        ("simclr_slim", "encoder_q.", "encoder_k.", "simclr"),
        ("supervised", "encoder_q.", "encoder_k.", "supervised"),
        ("supervised_switch", "encoder_q.", "encoder_k.", "supervised"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_method_is_told_from_its_tensors(tmp_path, capsys, head, prefix, copy, method, zipped):
    encoder, state = made(head, prefix)
    file = saved(tmp_path, extras(state, prefix, copy), zipped=zipped)
    assert main(["import", str(file), "--out", str(tmp_path / "w.safetensors"), "--name", "mine"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(state)} taken, {len(state) + 4} ignored" in printed
    assert f"2 of queue, 2 of predictor, {len(state)} of key encoder" in printed
    header = same_outputs(encoder, tmp_path / "w.safetensors")
    assert (header["method"], header["run"]) == (method, "mine")
    assert (header["depth"], header["base_width"]) == (14, 16)


@pytest.mark.parametrize(("head", "method"), [("supervised_switch", "probe"), ("supervised", "supervised")])
def test_a_classifier_without_encoder_prefix(tmp_path, head, method):
    encoder, state = made(head, "")
    assert main(["import", str(saved(tmp_path, state)), "--out", str(tmp_path / "w.safetensors")]) == 0
    assert same_outputs(encoder, tmp_path / "w.safetensors")["method"] == method
    assert (
        OwnClassifier.from_tensors(
            load_backbone(tmp_path / "w.safetensors")[0], *read_weights(tmp_path / "w.safetensors")
        ).classes
        == 12
    )


@pytest.mark.parametrize("widths", [(1.0,), (1.0, 0.5)])
def test_the_file_itself_may_be_the_state_dict_and_have_no_counters(tmp_path, widths):
    encoder, state = made("mocov2_slim", "encoder_q.", depth=26, widths=widths)
    short = {name.removeprefix("module."): t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(short, tmp_path / "net.pth")
    assert main(["import", str(tmp_path / "net.pth"), "--out", str(tmp_path / "w.safetensors")]) == 0
    header = same_outputs(encoder, tmp_path / "w.safetensors")
    assert (header["depth"], header["widths"], header["run"]) == (26, list(widths), "net")


def test_a_scalar_of_numpy_1_is_read(tmp_path, small):
    file = saved(tmp_path, small[1], zipped=False)
    content = file.read_bytes()
    assert b"numpy._core.multiarray" in content
    file.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert main(["import", str(file), "--out", str(tmp_path / "w.safetensors")]) == 0


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("depth", [14, 50, 101])
def test_names_go_there_and_back(head, depth):
    names = backbone_names(depth, WIDTHS) + head_names(head, WIDTHS)
    shape = {"depth": depth, "widths": WIDTHS, "head": head}
    ours = [our_name(name, **shape) for name in names]
    assert len(set(ours)) == len(names)
    assert [reference_name(name, **shape) for name in ours] == names


@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "features.4.conv1.weight", "fc.1.weight", "queue"])
def test_a_name_the_reference_does_not_have(name):
    with pytest.raises(ValueError, match="not a tensor"):
        our_name(name, depth=14, widths=WIDTHS, head="mocov2_slim")


@pytest.mark.parametrize("wrap", ["_orig_mod.module.{}", "module.module.{}", "module._orig_mod.{}", "{}"])
def test_what_wraps_a_network_is_stripped_from_names(tmp_path, small, wrap):
    encoder, state = small
    names = {name: wrap.format(name.removeprefix("module.")) for name in state}
    if wrap == "{}":
        names = {name: name.replace("encoder_q.", "encoder_q._orig_mod.") for name in state}
    file = saved(tmp_path, {names[name]: tensor for name, tensor in state.items()})
    assert main(["import", str(file), "--out", str(tmp_path / "w.safetensors")]) == 0
    same_outputs(encoder, tmp_path / "w.safetensors")


OPTIONS = argparse.Namespace(
    data=Path("/data/imagenet"),
    pure=PurePosixPath("a/b"),
    windows=PureWindowsPath("c:/data"),
    counts=defaultdict(list, {"a": [1], "b": [2]}),
    nested=OrderedDict(inner=defaultdict(int, {3: 4})),
    space=SimpleNamespace(kind=float),
    loss=np.float32(0.5),
    history=np.arange(3),
    shape=torch.Size([3, 4]),
    dtype=torch.float16,
    device=torch.device("cpu"),
    started=datetime(2024, 1, 2, tzinfo=UTC),
)


@pytest.mark.parametrize("zipped", [True, False])
def test_options_that_training_scripts_have_are_let_pass(tmp_path, small, zipped):
    content = {"state_dict": small[1], "args": OPTIONS, "log": defaultdict(list, {"loss": [np.float64(1)]})}
    torch.save(content, tmp_path / "net.pth.tar", _use_new_zipfile_serialization=zipped)
    assert main(["import", str(tmp_path / "net.pth.tar"), "--out", str(tmp_path / "w.safetensors")]) == 0
    same_outputs(small[0], tmp_path / "w.safetensors")


def test_paths_of_python_3_13_are_let_pass(tmp_path, small):
    torch.save({"state_dict": small[1], "data": Path("/data")}, tmp_path / "net.pth", _use_new_zipfile_serialization=0)
    content = (tmp_path / "net.pth").read_bytes()
    assert b"cpathlib\nPosixPath" in content
    (tmp_path / "net.pth").write_bytes(content.replace(b"cpathlib\nPosix", b"cpathlib._local\nPosix"))
    assert main(["import", str(tmp_path / "net.pth"), "--out", str(tmp_path / "w.safetensors")]) == 0


# -------------------------------------------------------------------------------------------------- a run's folder


def test_a_runs_folder_is_written_whole(tmp_path, small):
    folder = tmp_path / "results/pretrain/mine"
    file = saved(tmp_path, extras(small[1], "encoder_q.", "encoder_k."))
    assert main(["import", str(file), "--out", str(folder / "weights.safetensors")]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "config.yaml", "metrics.json", "metrics.jsonl"
    }  # fmt: skip
    assert same_outputs(small[0], folder / "weights.safetensors")["run"] == "mine"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["run"], metrics["stage"], metrics["method"], metrics["arch"]) == (
        "mine", "import", "mocov2", "resnet14w16"
    )  # fmt: skip
    backbone = small[0].backbone
    assert metrics["widths"] == {
        str(width): {
            "params": count_parameters(backbone, width),
            "macs": count_macs(backbone, width, image_size=224),
        }
        for width in WIDTHS
    }
    assert metrics["tensors"]["ignored"] == {"queue": 2, "predictor": 2, "key encoder": len(small[1])}
    assert metrics["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert metrics["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert metrics["comparable_because"] == ["its weights were imported from net.pth.tar, trained elsewhere"]
    assert metrics["provenance"]["versions"]["torch"]
    # The folder alone does as well, and a second import takes the place of the first.
    before = (folder / "weights.safetensors").read_bytes()
    assert main(["import", str(file), "--out", str(folder)]) == 0
    assert (folder / "weights.safetensors").read_bytes() == before


def test_weights_of_this_project_are_imported_where_they_lie_or_from_elsewhere(tmp_path, small):
    work = tmp_path / "work"
    run = work / "results/pretrain/mine"
    run.mkdir(parents=True)
    torch.save(small[1], tmp_path / "net.pth")
    # As an older version left it: the weights alone.
    assert main(["import", str(tmp_path / "net.pth"), "--out", str(run / "a.safetensors")]) == 0
    weights = (run / "a.safetensors").rename(run / "weights.safetensors")
    with pytest.raises(UserError, match=r"no metrics.json beside it; to keep it run `slimclr import .*mine/weights"):
        external_runs(work, ["mine"])
    assert main(["import", str(weights), "--out", str(run)]) == 0
    assert external_runs(work, ["mine", "other"]) == ["mine"]
    assert main(["import", str(weights), "--out", str(work / "results/pretrain/other")]) == 0
    assert external_runs(work, ["mine", "other"]) == ["mine", "other"]
    header = same_outputs(small[0], work / "results/pretrain/other/weights.safetensors")
    assert (header["run"], header["source"]) == ("other", "net.pth")


def test_what_own_weights_say_of_classes_and_images_is_kept(tmp_path, small):
    told = {"classes": ["n1", "n2"], "image_size": 64, "views": "slim"}
    shape = {"depth": 14, "base_width": 8, "widths": [1.0, 0.5]}
    torch.manual_seed(0)
    backbone = build_backbone(14, 8, (1.0, 0.5))
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    save_weights(tmp_path / "mine.safetensors", tensors, {"method": "supervised", "run": "mine"} | shape | told)
    assert main(["import", str(tmp_path / "mine.safetensors"), "--out", str(tmp_path / "other")]) == 0
    _, header = read_weights(tmp_path / "other/weights.safetensors")
    assert {key: header[key] for key in told} == told
    assert json.loads((tmp_path / "other/metrics.json").read_text())["image_size"] == 64


def test_a_safetensors_file_in_the_references_naming_is_read(tmp_path, small):
    save_file({name: tensor.contiguous() for name, tensor in small[1].items()}, tmp_path / "net.safetensors")
    assert main(["import", str(tmp_path / "net.safetensors"), "--out", str(tmp_path / "mine")]) == 0
    same_outputs(small[0], tmp_path / "mine/weights.safetensors")


def test_trained_weights_are_not_replaced_by_an_import(tmp_path, capsys, small):
    folder, backbone = tmp_path / "mine", small[0].backbone
    trained = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    save_weights(folder / "weights.safetensors", trained, {"run": "mine", "stage": "pretrain"} | backbone.shape)
    before = (folder / "weights.safetensors").read_bytes()
    assert main(["import", str(saved(tmp_path, small[1])), "--out", str(folder)]) == 2
    assert "made by pretrain, so import does not replace it; move it elsewhere" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["weights.safetensors"]
    assert (folder / "weights.safetensors").read_bytes() == before


def imported(file, folder, **recipe):
    recipe = json.dumps({"file": file.name} | recipe)
    return main(["import", str(file), "--out", str(folder), "--recipe", recipe])


def test_weights_that_a_recipe_names_are_a_product(tmp_path, capsys, small):
    folder = tmp_path / "results/pretrain/mine"
    file = saved(tmp_path, small[1])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert imported(file, folder, sha256="0" * 8) == 2
    assert f"its SHA-256 is {digest}, but 00000000 is expected; download it again" in capsys.readouterr().err
    assert imported(file, folder, sha256=digest, method="probe") == 2
    error = capsys.readouterr().err
    assert "net.pth.tar: holds a network of method mocov2, but its recipe says checkpoint.method probe" in error
    assert len(error.splitlines()) == 1
    assert not folder.exists()
    assert imported(file, folder, sha256=digest, method="mocov2") == 0
    assert external_runs(tmp_path, ["mine"], imported=["mine"]) == []
    # Without its recipe, and imported by hand, it is the user's.
    assert external_runs(tmp_path, ["mine"]) == ["mine"]
    assert main(["import", str(file), "--out", str(folder)]) == 0
    assert external_runs(tmp_path, ["mine"], imported=["mine"]) == ["mine"]


def test_trained_weights_are_not_given_to_a_recipe_that_names_a_checkpoint(tmp_path, small):
    folder = tmp_path / "results/pretrain/mine"
    trained = {f"backbone.{name}": tensor for name, tensor in small[0].backbone.state_dict().items()}
    header = {"run": "mine", "stage": "pretrain"} | small[0].backbone.shape
    save_weights(folder / "weights.safetensors", trained, header)
    (folder / "metrics.json").write_text(json.dumps({"stage": "pretrain", "run": "mine"}))
    assert external_runs(tmp_path, ["mine"]) == []
    with pytest.raises(UserError, match=r"made by pretrain, but the recipe of mine names a checkpoint now; move the"):
        external_runs(tmp_path, ["mine"], imported=["mine"])


@pytest.mark.parametrize("meta", [{"slimclr": json.dumps({"stage": "import", "run": "mine"})}, {"format": "pt"}, None])
def test_pre_training_replaces_only_what_it_made(tmp_path, capsys, meta):
    out = tmp_path / "mine"
    out.mkdir()
    save_file({"a": torch.zeros(1)}, out / "weights.safetensors", meta)
    before = (out / "weights.safetensors").read_bytes()
    recipe = {"method": {"name": "random"}, "backbone": {"depth": 14, "base_width": 8}, "epochs": 0, "image_size": 32}
    command = ["pretrain", "--name", "mine", "--recipe", json.dumps(recipe), "--out", str(out)]
    assert main([*command, "--checkpoints", str(tmp_path / "checkpoints")]) == 2
    assert "so pretrain does not replace it; move it elsewhere, or name another --out" in capsys.readouterr().err
    assert (out / "weights.safetensors").read_bytes() == before


# -------------------------------------------------------------------------------------------------------- refusals


def test_names_are_shown_where_nothing_fits(tmp_path, capsys):
    state = {f"layer1.0.conv{number}.weight": torch.zeros(1) for number in range(1, 10)}
    error = refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")
    assert "no tensor fc.*" in error
    assert "of 9 tensors the first are layer1.0.conv1.weight, layer1.0.conv2.weight, " in error
    assert "conv5" in error
    assert "conv6" not in error


def test_numbers_that_are_not_finite_are_refused(tmp_path, capsys, small):
    state = {name: tensor.clone() for name, tensor in small[1].items()}
    state["module.encoder_q.conv1.weight"].view(-1)[:3] = float("nan")
    state["module.encoder_q.bn1.bn.0.running_var"][0] = float("inf")
    error = refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert "2 tensors not finite in resnet14w16 with 4 widths: " in error
    assert "encoder_q.conv1.weight (3 of 2352 values)" in error
    assert "encoder_q.bn1.bn.0.running_var (1 of 16 values)" in error


def test_two_wrapped_names_for_one_tensor_are_refused(tmp_path, capsys, small):
    state = small[1] | {"_orig_mod.encoder_q.conv1.weight": torch.zeros(16, 3, 7, 7)}
    error = refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")
    assert "1 tensors unknown in resnet14w16 with 4 widths: _orig_mod.encoder_q.conv1.weight" in error


def test_missing_misshapen_and_unknown_tensors_are_listed(tmp_path, capsys, small):
    state = dict(small[1])
    del state["module.encoder_q.features.2.bn3.bn.3.running_var"], state["module.encoder_q.fc.0.bias"]
    state["module.encoder_q.features.3.conv2.weight"] = torch.zeros(128, 128, 1, 1)
    state["module.encoder_q.features.3.bn9.bn.0.weight"] = torch.zeros(1)
    state["module.something"] = torch.zeros(1)
    error = refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")
    missing, misshapen, unknown = error.splitlines()
    assert "2 tensors missing of resnet14w16 with 4 widths" in missing
    assert "encoder_q.features.2.bn3.bn.3.running_var (64,)" in missing
    assert "encoder_q.fc.0.bias (512,)" in missing
    assert "1 tensors of another shape" in misshapen
    assert "encoder_q.features.3.conv2.weight is (128, 128, 1, 1) instead of (128, 128, 3, 3)" in misshapen
    assert "2 tensors unknown" in unknown
    assert "something, encoder_q.features.3.bn9.bn.0.weight" in unknown
    assert all(str(tmp_path / "net.pth.tar") in line for line in error.splitlines())


def test_a_second_name_for_a_tensor_is_unknown(tmp_path, capsys, small):
    state = small[1] | {"module.encoder_q.bn1.norms.1_0.weight": torch.ones(16)}
    assert "1 tensors unknown" in refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")


def test_a_long_list_is_cut(tmp_path, capsys, small):
    state = small[1] | {f"module.encoder_q.extra{number}": torch.zeros(1) for number in range(25)}
    error = refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")
    assert "25 tensors unknown" in error
    assert "extra19 and 5 more" in error
    assert "extra20" not in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.encoder_q.conv1.weight"), "lacks conv1.weight"),
        (lambda s: s.pop("module.encoder_q.bn1.bn.1.weight"), "lacks bn1.bn.1.weight"),
        (lambda s: s.update({"module.encoder_q.bn1.bn.0.weight": torch.ones(15)}), "of 15, 12, 8, 4 channels"),
        (lambda s: s.update({"module.encoder_q.conv1.weight": torch.tensor(1.0)}), "the 1 of conv1.weight"),
        (lambda s: s.update({"module.encoder_q.features.4.conv1.weight": torch.ones(1)}), "5 blocks features.<n>"),
        (lambda s: s.pop("module.encoder_q.fc.2.weight"), "lacks fc.2.weight"),
        (
            lambda s: [s.pop(f"module.encoder_q.fc.{n}.{p}") for n in (0, 2) for p in ("weight", "bias")],
            r"no tensor fc",
        ),
    ],
)
def test_a_network_that_cannot_be_told(tmp_path, capsys, small, change, message):
    state = dict(small[1])
    change(state)
    error = refused(capsys, [saved(tmp_path, state)], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert message in error


class _Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, "posix.system"), (os.mknod, "posix.mknod"), (eval, "eval"), (Path, "pathlib.Path")],
)
def test_a_file_that_wants_to_run_something_is_refused_unrun(tmp_path, capsys, small, zipped, function, named):
    trace = tmp_path / "trace"
    argument = {"system": f"touch {trace}", "eval": f"open({str(trace)!r}, 'w')"}.get(function.__name__, str(trace))
    file = saved(tmp_path, small[1] | {"module.bad": _Call(function, argument)}, zipped=zipped)
    error = refused(capsys, [file], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert f"asks for {named}, which" in error
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 10, 600, 0.5, 0.999])
def test_a_damaged_file_is_refused(tmp_path, capsys, small, zipped, keep):
    file = saved(tmp_path, small[1], zipped=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    error = refused(capsys, [file], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert "not a whole file of torch.save" in error


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": [1]}, {"model": torch.zeros(1), "epoch": 3}])
def test_a_file_without_state_dict_is_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "net.pth")
    assert "holds no state_dict" in refused(capsys, [tmp_path / "net.pth"], tmp_path / "w.safetensors")


def test_other_wrong_arguments(tmp_path, capsys, small):
    assert "no such checkpoint" in refused(capsys, [tmp_path / "absent.pth.tar"], tmp_path / "w.safetensors")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    assert "not a whole file of torch.save" in refused(capsys, [tmp_path / "page.pth"], tmp_path / "w.safetensors")
    file = saved(tmp_path, small[1])
    assert "at least one photo" in refused(capsys, [file, "--photos", "0"], tmp_path / "w.safetensors")
    assert "holds no classifier" in refused(capsys, [file, "--val", tmp_path], tmp_path / "w.safetensors")


# ------------------------------------------------------------------------------------------------------------ hash


@pytest.mark.parametrize(
    ("kind", "length", "named"), [("sha256", 8, "SHA-256"), ("md5", 10, "MD5"), ("sha1", 12, "SHA-1")]
)
def test_a_hash_that_fits(tmp_path, capsys, small, kind, length, named):
    file = saved(tmp_path, small[1])
    tail = hashlib.new(kind, file.read_bytes()).hexdigest()[:length].upper()
    file = file.rename(tmp_path / f"slimclr-mocov2-ep200-{tail}.pth.tar")
    assert main(["import", str(file), "--out", str(tmp_path / "w.safetensors")]) == 0
    assert f"{tail.lower()} in the file's name is the beginning of its {named}" in capsys.readouterr().out


def test_a_hash_that_does_not_fit(tmp_path, capsys, small):
    file = saved(tmp_path, small[1], name="slimclr_ep200_0123456789.pth")
    digests = [hashlib.new(kind, file.read_bytes()).hexdigest()[:10] for kind in ("sha256", "md5", "sha1")]
    error = refused(capsys, [file], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert all(text in error for text in ["0123456789 ", "--no-hash-check", *digests])
    assert main(["import", str(file), "--out", str(tmp_path / "w.safetensors"), "--no-hash-check"]) == 0
    assert "MISMATCH" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["net.pth.tar", "net-0123456.pth.tar", "net0123456789.pth", "net-lincls.pth"])
def test_a_name_without_hash(tmp_path, capsys, small, name):
    assert main(["import", str(saved(tmp_path, small[1], name=name)), "--out", str(tmp_path / "w.safetensors")]) == 0
    assert "nothing to check" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ --val


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four classes, each of one colour."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200), (190, 190, 190)]):
        (root / f"n{label:08d}").mkdir()
        for number in range(5):
            noise = rng.normal(colour, 12, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / f"n{label:08d}" / f"{number}.JPEG")
    return root


@pytest.fixture(scope="module")
def nearest_mean(photos):
    """A probe's state dict that gives an image the class whose mean feature is nearest."""
    torch.manual_seed(0)
    widths = (1.0, 0.5)
    backbone = build_backbone(DEPTH, BASE, widths, zero_init_residual=False).eval()
    folder = FolderImages(photos)
    loader = validation_loader(folder, resize=256, image_size=224, batch=20, workers=0)
    (views,), labels = next(iter(loader))
    state = {}
    for name, tensor in backbone.state_dict().items():
        state["module." + reference_name(f"backbone.{name}", depth=DEPTH, widths=widths)] = tensor
    for index, width in enumerate(widths):
        with torch.no_grad():
            features = backbone(views, width)
        means = torch.stack([features[labels == label].mean(dim=0) for label in range(4)])
        state[f"module.fc.linears.{index}.weight"] = 2 * means
        state[f"module.fc.linears.{index}.bias"] = -means.square().sum(dim=1)
    return state


def test_a_classifier_that_fits_is_taken(tmp_path, capsys, photos, nearest_mean):
    file = saved(tmp_path, nearest_mean)
    arguments = ["import", str(file), "--out", str(tmp_path / "w.safetensors"), "--val", str(photos), "--photos", "8"]
    assert main(arguments) == 0
    assert "1.0: 100.0 %, 0.5: 100.0 %; chance 25.0 %; 8 photos" in capsys.readouterr().out
    assert load_backbone(tmp_path / "w.safetensors")[1]["method"] == "probe"


def test_the_photos_are_spread_over_the_classes(tmp_path, capsys, photos, nearest_mean):
    state = {name: t[[0, 1, 3, 2]] if ".fc." in name else t for name, t in nearest_mean.items()}
    arguments = ["import", str(saved(tmp_path, state)), "--out", str(tmp_path / "w.safetensors"), "--val", str(photos)]
    assert main([*arguments, "--photos", "4"]) == 0
    assert "1.0: 50.0 %" in capsys.readouterr().out


def test_a_classifier_with_another_order_of_classes_is_refused(tmp_path, capsys, photos, nearest_mean):
    state = {name: t.roll(1, 0) if ".fc." in name else t for name, t in nearest_mean.items()}
    error = refused(capsys, [saved(tmp_path, state), "--val", photos], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert "the order of classes does not fit" in error
    assert "0.0 %, less than 50.0 %" in error


def test_a_classifier_of_another_number_of_classes_is_refused(tmp_path, capsys, photos):
    _, state = made("supervised_switch", "")
    error = refused(capsys, [saved(tmp_path, state), "--val", photos], tmp_path / "w.safetensors")
    assert len(error.splitlines()) == 1
    assert "has 4 classes, but the classifier" in error
    assert "has 12" in error
