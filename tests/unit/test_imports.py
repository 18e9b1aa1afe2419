"""Importing and training need none of the heavy or platform-bound packages."""

import subprocess
import sys

import pytest
from PIL import Image

ABSENT = (
    "lmdb",
    "nvidia.dali",
    "mmdet",
    "mmcv",
    "mmengine",
    "snakemake",
    "pandas",
    "pyarrow",
    "scipy",
    "mxnet",
    "numba",
)


def test_training_imports_without_lmdb_dali_mmdet_and_snakemake():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
        "import slimclr.cli, slimclr.stages.pretrain, slimclr.stages.probe, slimclr.data.stores.folder"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_records_without_tensorboard_are_in_metrics_jsonl_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    from slimclr.engine.records import Records, copy_records

    records = Records(tmp_path / "run", step=0)
    records.write({"step": 1, "loss": 2.0})
    records.close()
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'
    assert "tensorboard is not installed" in capsys.readouterr().err
    copy_records(tmp_path / "run", tmp_path / "out")
    assert list((tmp_path / "out/tensorboard").iterdir()) == []


SLOW_DALI = """
import sys

sys.modules["numba"] = None
from pathlib import Path
from slimclr.data.stores import open_images
from slimclr.data.loading.loaders import training_loader

options = dict(image_size=32, total_batch=4, batch=4, seed=0, workers=0, backend="dali")
for _ in range(2):
    loader = training_loader(open_images(Path(sys.argv[1])), "mocov2", **options)
    print(*[view.shape for views, _ in loader for view in views])
"""


def test_dali_without_numba_says_once_that_it_is_slower(tmp_path):
    pytest.importorskip("nvidia.dali")
    (tmp_path / "n00000000").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40)).save(tmp_path / f"n00000000/{number}.JPEG")
    done = subprocess.run([sys.executable, "-c", SLOW_DALI, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["torch.Size([4, 3, 32, 32]) torch.Size([4, 3, 32, 32])"] * 2
    (line,) = [line for line in done.stderr.splitlines() if "numba" in line]
    assert "numba is missing" in line
    assert "more slowly than Pillow" in line
    assert "install numba" in line


def test_the_config_imports_without_torch():
    code = "import sys; sys.modules['torch'] = None; import slimclr.config, slimclr.build.batch, slimclr.machine"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
