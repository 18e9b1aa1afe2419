"""Shared by all tests: a small data set in memory, a small disk, somebody without rights, one thread per process."""

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from tests.helpers.memory_images import MemoryImages

# Snakemake's plugin asks Slurm when it is imported, and waits for a controller that is down.
if "SLIMCLR_TEST_SLURM" not in os.environ:
    os.environ["SLURM_CONF"] = os.devnull


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def images():
    return MemoryImages(36)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, and how to enlarge it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "test", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def enlarge():
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)

    try:
        yield folder, enlarge
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def open_folder():
    """A folder that every user may read and none but us may write; pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def as_nobody():
    """Call a function as somebody without rights, since root may read and write anything; gives what it returns."""

    def run(function):
        receiver, sender = multiprocessing.Pipe(duplex=False)

        def attempt():
            if os.geteuid() == 0:
                os.setuid(65534)
            sender.send(function())

        process = multiprocessing.get_context("fork").Process(target=attempt)
        process.start()
        sender.close()  # so that a process that fails ends the wait
        try:
            return receiver.recv()
        finally:
            process.join()

    return run
