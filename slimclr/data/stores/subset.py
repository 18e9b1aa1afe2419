"""Some images of a data set: a share of every class, or those that a list names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimclr.data.stores.base import Images
from slimclr.errors import UserError
from slimclr.seeds import derived_seed

_SHOWN = 3


class Subset:
    """Some images of a data set, with its classes (interface: `slimclr.data.stores.base.Images`).

    Args:
        images: The data set.
        chosen: Indices of its images, ascending.
    """

    def __init__(self, images: Images, chosen: np.ndarray):
        self._images, self._chosen = images, chosen
        self.classes = images.classes
        self.keys = [images.keys[index] for index in chosen.tolist()]
        self.labels = images.labels[chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def read(self, index: int) -> bytes:
        """The image's bytes as they were in the archive."""
        return self._images.read(int(self._chosen[index]))


def drawn_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Indices of a share of every class's images, at least one of each, ascending.

    Args:
        labels: Class of every image (n,).
        share: From 0 to 1, 1 among them.
        seed: Draws them.
    """
    rng = np.random.default_rng(derived_seed("labels", seed))
    chosen = []
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(own[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(chosen))


def named_images(keys: Sequence[str], path: Path) -> np.ndarray:
    """Indices of the images that a text file names, ascending.

    Args:
        keys: `<class>/<file name>` of every image.
        path: One image a line, by its file name or its key.

    Raises:
        UserError: The file cannot be read, names no image, one twice, or one that is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list ({error}); give a text file of image names, one a line") from None
    names = [line.strip() for line in lines if line.strip()]
    wanted = set(names)
    if not names:
        raise UserError(f"{path}: names no image; give a text file of image names, one a line")
    if len(wanted) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: names {twice} more than once; keep one")
    found: dict[str, int] = {}
    for index, key in enumerate(keys):
        for name in wanted.intersection((key, key.rpartition("/")[2])):
            if name in found:
                raise UserError(f"{path}: {name} is the name of several images; write <class>/<file name>")
            found[name] = index
    if len(found) < len(names):
        absent = [name for name in names if name not in found]
        shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        raise UserError(
            f"{path}: {len(absent):,} of {len(names):,} images are not among the training images ({shown}); give a "
            "list of this data set's images"
        )
    return np.unique(np.fromiter(found.values(), np.int64, len(found)))


def list_text(images: Images) -> str:
    """A list that `named_images` reads: one name a line; file names where they begin with their class, else keys."""
    parts = [key.rpartition("/") for key in images.keys]
    return "".join(f"{name if name.startswith(f'{folder}_') else f'{folder}/{name}'}\n" for folder, _, name in parts)
