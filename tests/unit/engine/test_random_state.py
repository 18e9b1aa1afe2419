"""States of random generators: all of them come back, also through a checkpoint."""

import random

import numpy as np
import torch

from slimclr.engine.random_state import random_state, set_random_state

CPU = torch.device("cpu")


def drawn():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), np.random.randn(), random.gauss(0, 1)


def test_every_generator_goes_on_from_its_state(tmp_path):
    drawn()  # NumPy and Python now each hold the second of a pair of normal numbers
    torch.save(random_state(CPU), tmp_path / "state.pt")
    wanted = drawn()
    assert drawn() != wanted
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True), CPU)
    assert drawn() == wanted
