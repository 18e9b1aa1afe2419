import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch

from slimclr.data.archives.extract import extract_val
from slimclr.data.stores import open_images
from slimclr.data.stores.convert import write_lmdb
from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages
from slimclr.errors import UserError


@pytest.fixture(scope="module")
def database(extracted, tmp_path_factory):
    path = tmp_path_factory.mktemp("lmdb") / "train.lmdb"
    write_lmdb(extracted, extracted / "manifest.parquet", path)
    return path


class Bytes(torch.utils.data.Dataset):
    """Index and content of each image, as numbers."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return index, self.images.read(index)


def test_same_images_as_the_folder(database, extracted):
    images, folder = open_images(database), FolderImages(extracted)
    assert isinstance(images, LMDBImages)
    assert (images.keys, images.classes, len(images)) == (folder.keys, folder.classes, len(folder))
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == folder.labels.tolist()
    assert all(images.read(index) == folder.read(index) for index in range(len(folder)))
    assert [path.name for path in database.parent.iterdir()] == ["train.lmdb"]


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (2, "spawn")])
def test_loader_workers_read_the_same(database, extracted, workers, start):
    images, folder = LMDBImages(database), FolderImages(extracted)
    images.read(0)  # opened in the parent: the children must open their own
    context = multiprocessing.get_context(start) if start else None
    loader = torch.utils.data.DataLoader(
        Bytes(images),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
    )
    for _ in range(2):
        assert dict(loader) == {index: folder.read(index) for index in range(len(folder))}
    assert images.read(1) == folder.read(1)


def test_two_readers_in_one_process(database):
    first, second = LMDBImages(database), LMDBImages(database)
    assert first.read(3) == second.read(3) == pickle.loads(pickle.dumps(first)).read(3)
    del first
    assert second.read(4)


def test_index_out_of_range(database):
    images = LMDBImages(database)
    with pytest.raises(IndexError):
        images.read(len(images))


def test_map_grows_as_needed(extracted, tmp_path):
    write_lmdb(extracted, extracted / "manifest.parquet", tmp_path / "small.lmdb", map_size=1 << 14)
    images, folder = LMDBImages(tmp_path / "small.lmdb"), FolderImages(extracted)
    assert (tmp_path / "small.lmdb").stat().st_size > 1 << 14
    assert all(images.read(index) == folder.read(index) for index in range(len(folder)))


def test_file_of_another_size_than_in_the_manifest(extracted, tmp_path):
    table = pandas.read_parquet(extracted / "manifest.parquet")
    table.loc[2, "bytes"] += 1
    table.to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(UserError, match=f"{table['key'][2]}: .* bytes, the manifest says .*extract stage again"):
        write_lmdb(extracted, tmp_path / "manifest.parquet", tmp_path / "train.lmdb")
    assert not (tmp_path / "train.lmdb").exists()


def test_missing_manifest_and_missing_image(extracted, tmp_path):
    with pytest.raises(UserError, match="manifest"):
        write_lmdb(extracted, tmp_path / "manifest.parquet", tmp_path / "train.lmdb")
    with pytest.raises(UserError, match="in the manifest, but missing"):
        write_lmdb(tmp_path, extracted / "manifest.parquet", tmp_path / "train.lmdb")


def test_a_database_in_the_place_of_an_open_one_is_read_itself(extracted, miniature, tmp_path):
    path, other = tmp_path / "data.lmdb", tmp_path / "other.lmdb"
    write_lmdb(extracted, extracted / "manifest.parquet", path)
    extract_val(miniature.val, miniature.devkit, tmp_path / "val", expect="subset", lmdb=other)
    images, wanted = open_images(path), open_images(other)
    before = images.read(0)
    other.replace(path)
    replaced = open_images(path)
    assert replaced.digest == wanted.digest != images.digest
    assert replaced.read(0) == wanted.read(0) != before == images.read(0)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such data set"):
        open_images(tmp_path / "none.lmdb")
    with pytest.raises(UserError, match="no such file"):
        LMDBImages(tmp_path / "none.lmdb")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(database, tmp_path, share):
    data = database.read_bytes()
    (tmp_path / "cut.lmdb").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"cut.lmdb: .*run the convert stage again"):
        LMDBImages(tmp_path / "cut.lmdb")


def test_foreign_file(tmp_path):
    import lmdb

    (tmp_path / "text.lmdb").write_text("hello " * 5000)
    with pytest.raises(UserError, match=r"text.lmdb: not a readable LMDB"):
        LMDBImages(tmp_path / "text.lmdb")
    with (
        lmdb.open(str(tmp_path / "other.lmdb"), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"a", b"b")
    with pytest.raises(UserError, match=r"other.lmdb: no entry 'meta'"):
        LMDBImages(tmp_path / "other.lmdb")


def test_slimclr_imports_without_lmdb():
    program = "import sys; sys.modules['lmdb'] = None; import slimclr.data.stores.lmdb, slimclr.data.archives"
    subprocess.run([sys.executable, "-c", program], check=True)
