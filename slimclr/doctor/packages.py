"""What an environment has: mmcv's operators, DALI, and the self-test of a container image. Needs no GPU."""

from slimclr.doctor.finding import Finding, failure, ok, probe, warning
from slimclr.locks import differences, installed_versions

MODULES = {
    "train": "torch torchvision numpy scipy pandas pyarrow PIL lmdb nvidia.dali numba safetensors pydantic yaml rich "
    "tensorboard jinja2 matplotlib snakemake",
    "detection": "torch torchvision mmengine mmcv mmdet cv2 pycocotools.mask numpy PIL safetensors pydantic yaml rich",
    "recordio": "mxnet numpy lmdb PIL pydantic yaml rich",
}

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
layer, image = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
out = layer(image)
out.square().mean().backward()
expected = torch.nn.functional.unfold(image, 3).transpose(1, 2) @ layer.weight.flatten(1).T + layer.bias
assert torch.allclose(out.flatten(2).transpose(1, 2), expected, atol=1e-5) and layer.weight.grad.isfinite().all()
print(json.dumps({"version": torch.__version__}))
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
# Check -> code, what is said when it runs, what it is when it does not, and the cure.
WORKS = {
    "dali": (DALI, "DALI {version}", warning, "loader: dali needs it (envs/train.lock); those of torchvision do not"),
    "torch": (
        *(CONVOLUTION, "torch {version}: convolution forward and backward"),
        *(failure, "build the image again; the processor may lack AVX2"),
    ),
}


def check_mmcv(python: str | None) -> Finding:
    """Mmcv's operators, its own or torchvision's, forward and backward; on the GPU, too, where there is one."""
    if python is None:
        return warning("mmcv ops", ".venvs/detection is not installed", "make .venvs/detection")
    found, again = probe(python, MMCV), "rm -r .venvs/detection; make .venvs/detection"
    if isinstance(found, str):
        return failure("mmcv ops", found, f"install it again: {again}")
    if found["broken"]:
        device, reason = next(iter(found["broken"].items()))
        cure = f"made without this device's operators; {again}"
        return failure("mmcv ops", f"mmcv {found['version']} on {device}: {reason}", cure)
    return ok("mmcv ops", f"mmcv {found['version']} on {' and '.join(found['devices'])}")


def check_works(check: str, python: str) -> Finding:
    """Whether dali or torch of an environment computes something, on the CPU."""
    code, text, otherwise, cure = WORKS[check]
    found = probe(python, code)
    return otherwise(check, found, cure) if isinstance(found, str) else ok(check, text.format(**found))


def check_versions(lock: str) -> Finding:
    """This environment against its lock."""
    if wrong := differences(lock, installed_versions()):
        return failure("versions", f"{len(wrong)} differ: {'; '.join(wrong[:5])}", "build it again from the lock")
    return ok("versions", f"{len(installed_versions())} packages as locked")


def check_imports(python: str, names: list[str]) -> Finding:
    """Modules can be imported, all in one process."""
    found = probe(python, IMPORTS.format(names=names))
    if isinstance(found, str):
        return failure("imports", found, "build the image again")
    if found:
        name, reason = next(iter(found.items()))
        text = f"{len(found)} of {len(names)} modules: {', '.join(found)}; {name}: {reason}"
        return failure("imports", text, "a library of the system is missing, or the lock changed")
    return ok("imports", f"{len(names)} modules")
