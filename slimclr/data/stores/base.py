"""The interface of a data store: what `slimclr.data.stores.open_images` returns, whatever the format on disk."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Images(Protocol):
    """Encoded images with labels."""

    @property
    def keys(self) -> Sequence[str]:
        """`<class>/<file name>` of every image."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is an index into them."""

    @property
    def labels(self) -> np.ndarray:
        """Class of every image, int64 (n,)."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """The image's bytes as they were in the archive."""
