"""What an environment has: mmcv's operators, DALI, and the self-test of a container image. Needs no GPU."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from slimclr.doctor.finding import Finding, probe

MODULES = {
    "train": (
        *("torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "PIL", "lmdb", "nvidia.dali", "numba"),
        *("safetensors", "pydantic", "yaml", "rich", "tensorboard", "jinja2", "matplotlib", "snakemake"),
    ),
    "detection": (
        *("torch", "torchvision", "mmengine", "mmcv", "mmdet", "cv2", "pycocotools.mask", "numpy", "PIL"),
        *("safetensors", "pydantic", "yaml", "rich"),
    ),
    "recordio": ("mxnet", "numpy", "lmdb", "PIL", "pydantic", "yaml", "rich"),
}
COMPILERS = ("gcc", "cc", "g++", "clang", "nvcc")

MMCV = """
import json, torch, mmcv
from mmcv.ops import nms, roi_align
devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
broken = {}
for device in devices:
    try:
        image = torch.arange(64.0, device=device).reshape(1, 1, 8, 8).requires_grad_()
        roi_align(image, torch.tensor([[0.0, 0, 0, 4, 4]], device=device), (2, 2)).sum().backward()
        boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4.1], [5, 5, 7, 7]], device=device)
        _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
        assert image.grad.sum() > 0 and kept.tolist() == [0, 2], (image.grad.sum(), kept)
    except Exception as error:
        broken[device] = " ".join(str(error).split())[:200]
print(json.dumps({"version": mmcv.__version__, "devices": devices, "broken": broken}))
"""
DALI = """
import json, numpy as np, nvidia.dali as dali
from nvidia.dali import fn, pipeline_def
@pipeline_def(batch_size=2, num_threads=1, device_id=None)
def pipeline():
    return fn.resize(fn.external_source(lambda: [np.full((8, 8, 3), 7, np.uint8)] * 2), size=(4, 4))
pipe = pipeline()
pipe.build()
(out,) = pipe.run()
assert out.as_array().shape == (2, 4, 4, 3) and (out.as_array() == 7).all()
print(json.dumps({"version": dali.__version__}))
"""
CONVOLUTION = """
import json, torch
torch.manual_seed(0)
layer = torch.nn.Conv2d(3, 4, 3)
image = torch.randn(2, 3, 8, 8)
out = layer(image)
out.square().mean().backward()
expected = torch.nn.functional.unfold(image, 3).transpose(1, 2) @ layer.weight.flatten(1).T + layer.bias
assert torch.allclose(out.flatten(2).transpose(1, 2), expected, atol=1e-5)
assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0
print(json.dumps({"version": torch.__version__}))
"""
RECORD = """
import json, mxnet
from mxnet import recordio
writer = recordio.MXIndexedRecordIO({idx!r}, {rec!r}, "w")
writer.write_idx(0, recordio.pack(recordio.IRHeader(0, 3.0, 0, 0), b"image"))
writer.close()
reader = recordio.MXIndexedRecordIO({idx!r}, {rec!r}, "r")
header, content = recordio.unpack(reader.read_idx(0))
reader.close()
assert (header.label, content) == (3.0, b"image"), (header, content)
print(json.dumps({{"version": mxnet.__version__}}))
"""
IMPORTS = """
import importlib, json
broken = {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
    except BaseException as error:
        broken[name] = " ".join(f"{{type(error).__name__}}: {{error}}".split())[:200]
print(json.dumps(broken))
"""


def check_mmcv(python: str | None) -> Finding:
    """Compiled operators of mmcv, forward and backward; on the GPU, too, where there is one.

    Args:
        python: The interpreter of the detection environment; None: it is not installed.
    """
    if python is None:
        return Finding("mmcv ops", "warning", ".venvs/detection is not installed", "make .venvs/detection")
    found = probe(python, MMCV)
    if isinstance(found, str):
        return Finding("mmcv ops", "failure", found, "install it again: rm -r .venvs/detection; make .venvs/detection")
    if found["broken"]:
        device, reason = next(iter(found["broken"].items()))
        cure = (
            "built without this device's operators; with CUDA 13's nvcc: rm -r .venvs/detection; make .venvs/detection"
        )
        return Finding("mmcv ops", "failure", f"mmcv {found['version']} on {device}: {reason}", cure)
    return Finding("mmcv ops", "ok", f"mmcv {found['version']} on {' and '.join(found['devices'])}")


def check_dali(python: str) -> Finding:
    """Whether DALI runs a pipeline on the CPU; `python` is the interpreter of the training environment."""
    found = probe(python, DALI)
    if isinstance(found, str):
        cure = "loader: dali needs it (envs/train.lock); the loaders of torchvision do not"
        return Finding("dali", "warning", found, cure)
    return Finding("dali", "ok", f"DALI {found['version']}")


def check_convolution(python: str) -> Finding:
    """Whether torch computes a convolution, forward and backward, on the CPU."""
    found = probe(python, CONVOLUTION)
    if isinstance(found, str):
        return Finding("torch", "failure", found, "build the image again; the processor may lack AVX2")
    return Finding("torch", "ok", f"torch {found['version']}: convolution forward and backward")


def check_record(python: str) -> Finding:
    """Whether mxnet writes a record and reads it back."""
    with tempfile.TemporaryDirectory(prefix="slimclr-doctor-") as folder:
        found = probe(python, RECORD.format(rec=f"{folder}/x.rec", idx=f"{folder}/x.idx"))
    if isinstance(found, str):
        return Finding("mxnet", "failure", found, "build the image again from envs/recordio.lock")
    return Finding("mxnet", "ok", f"mxnet {found['version']}: a record written and read")


def check_imports(python: str, names: tuple[str, ...]) -> Finding:
    """Modules can be imported, all in one process.

    Args:
        python: The interpreter.
        names: Of the modules.
    """
    found = probe(python, IMPORTS.format(names=names))
    if isinstance(found, str):
        return Finding("imports", "failure", found, "build the image again")
    if found:
        name, reason = next(iter(found.items()))
        text = f"{len(found)} of {len(names)} modules: {', '.join(found)}; {name}: {reason}"
        return Finding("imports", "failure", text, "a library of the system is missing, or the lock changed")
    return Finding("imports", "ok", f"{len(names)} modules")


def locked_versions(lock: str) -> dict[str, tuple[set[str], bool]]:
    """Package -> its versions in a lock (several when they depend on the platform), and whether it may be absent."""
    versions: dict[str, tuple[set[str], bool]] = {}
    for match in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;)?", lock, re.MULTILINE):
        known, optional = versions.get(_plain(match[1]), (set(), True))
        versions[_plain(match[1])] = (known | {match[2]}, optional and match[3] is not None)
    return versions


def installed_versions() -> dict[str, str]:
    """Package -> version of this process's environment."""
    return {_plain(package.metadata["Name"]): package.version for package in metadata.distributions()}


def check_versions(lock: str, installed: Mapping[str, str]) -> Finding:
    """What is installed against the lock: every package of it in its version, and nothing else.

    Args:
        lock: Its content.
        installed: Package -> version.
    """
    locked = locked_versions(lock)
    wrong = [
        f"{name} {installed.get(name, 'is missing')} instead of {' or '.join(sorted(versions))}"
        for name, (versions, optional) in locked.items()
        if (name not in installed and not optional) or (name in installed and installed[name] not in versions)
    ]
    wrong += [
        f"{name} {version} is not in it" for name, version in installed.items() if name not in {*locked, "slimclr"}
    ]
    if wrong:
        text = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        return Finding("versions", "failure", text, "build the image again from the lock")
    return Finding("versions", "ok", f"{len([name for name in installed if name in locked])} packages as locked")


def check_compilers() -> Finding:
    """Whether compilers are left in the image."""
    found = [name for name in COMPILERS if shutil.which(name)]
    if found:
        return Finding("size", "warning", f"left in the image: {', '.join(found)}", "compile in the build stage only")
    return Finding("size", "ok", "no compiler left")


def check_environment(name: str, *, python: str, lock: Path) -> list[Finding]:
    """The self-test of a container image, or of the environment that it was built from.

    Args:
        name: train, detection or recordio.
        python: Its interpreter.
        lock: What it was installed from.
    """
    if not lock.is_file():
        versions = Finding("versions", "failure", f"{lock} does not exist", "the image must hold its lock")
    else:
        versions = check_versions(lock.read_text(encoding="utf-8"), installed_versions())
    findings = [versions, check_imports(python, MODULES[name])]
    if name == "recordio":
        return [*findings, check_record(python)]
    findings.append(check_convolution(python))
    return [*findings, check_mmcv(python) if name == "detection" else check_dali(python)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
