"""A small data set in memory; here and not in a conftest, so that other processes can be given one."""

import io

import numpy as np
from PIL import Image


class MemoryImages:
    """Encoded images of noise with labels, as `slimclr.data.stores.open_images` gives them."""

    def __init__(self, count, classes=2, size=40):
        rng = np.random.default_rng(0)
        self.classes = [f"n{label:08d}" for label in range(classes)]
        self.labels = np.arange(count) % classes
        self.keys = [f"{self.classes[label]}/{index}.JPEG" for index, label in enumerate(self.labels)]
        self._files = []
        for _ in range(count):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(file, "JPEG")
            self._files.append(file.getvalue())

    def __len__(self):
        return len(self._files)

    def read(self, index):
        return self._files[index]
