"""A miniature of a few photos, made once, and ways to damage copies of it."""

import shutil
from types import SimpleNamespace

import pytest

from slimclr.data.archives.extract import extract_train
from slimclr.data.manifest import write_manifest
from slimclr.miniature.write import write_miniature
from tests.helpers.tar_tools import SMALL


def _paths(root):
    return SimpleNamespace(
        root=root,
        train=root / "ILSVRC2012_img_train.tar",
        val=root / "ILSVRC2012_img_val.tar",
        devkit=root / "ILSVRC2012_devkit_t12.tar.gz",
        coco=root / "coco",
    )


@pytest.fixture(scope="session")
def miniature(tmp_path_factory):
    root = tmp_path_factory.mktemp("miniature")
    write_miniature(root, **SMALL)
    return _paths(root)


@pytest.fixture(scope="session")
def extracted(miniature, tmp_path_factory):
    """Folder of the training split, with its manifest."""
    folder = tmp_path_factory.mktemp("extracted") / "train"
    write_manifest(extract_train(miniature.train, folder, expect="subset"), folder / "manifest.parquet")
    return folder


@pytest.fixture
def copy(miniature, tmp_path):
    """Archives that a test may damage."""
    root = tmp_path / "raw"
    root.mkdir()
    for archive in (miniature.train, miniature.val, miniature.devkit):
        shutil.copy(archive, root)
    return _paths(root)
