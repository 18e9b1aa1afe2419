"""Shared by all tests: a small data set in memory, one thread per process."""

import pytest
import torch

from tests.memory_images import MemoryImages


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def images():
    return MemoryImages(36)
