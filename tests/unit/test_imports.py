"""Importing and training need none of the heavy or platform-bound packages."""

import subprocess
import sys

ABSENT = ("lmdb", "nvidia.dali", "mmdet", "mmcv", "mmengine", "snakemake", "pandas", "pyarrow", "scipy", "mxnet")


def test_training_imports_without_lmdb_dali_mmdet_and_snakemake():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
        "import slimclr.cli, slimclr.stages.pretrain, slimclr.stages.probe, slimclr.data.folder"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_config_imports_without_torch():
    code = "import sys; sys.modules['torch'] = None; import slimclr.config, slimclr.engine.plan, slimclr.machine"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
