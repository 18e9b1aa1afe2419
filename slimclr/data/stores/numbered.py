"""A data set whose labels are counted in another order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimclr.data.stores.folder import FolderImages
from slimclr.data.stores.lmdb import LMDBImages
from slimclr.data.stores.recordio import RecordImages


@dataclass(frozen=True)
class Numbered:
    """Images of a data set with labels that are a classifier's outputs.

    Attributes:
        images: As they are stored.
        labels: int64 (images,).
    """

    images: FolderImages | LMDBImages | RecordImages
    labels: np.ndarray

    @property
    def keys(self) -> Sequence[str]:
        """`<class>/<file name>` of every image."""
        return self.images.keys

    @property
    def classes(self) -> Sequence[str]:
        """Names of the data set's own classes."""
        return self.images.classes

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        """The image's bytes as they were in the archive."""
        return self.images.read(index)
