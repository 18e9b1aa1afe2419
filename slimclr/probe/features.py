"""A frozen backbone's features on disk: blocks of images, a memory-mapped safetensors file each, with every width.

A block is whole or absent, so extraction goes on with the blocks that are missing, on any number of processes. Every
file says which weights, images and view its features are of.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimclr.data.loading.base import Loader
from slimclr.errors import UserError
from slimclr.files import atomic_path

# Of a ResNet-50's features at four widths a block is 21 MB, and ImageNet has 1,252 of them.
BLOCK = 1024
_HEADER = "slimclr"

Backbone = Callable[[Tensor], Mapping[float, Tensor]]
"""Normalised images (n, 3, h, w) to features (n, d) by width."""


class Features:
    """The features of one data set.

    Args:
        folder: Where its blocks lie.
        images: Number of images.
        sizes: Features of an image by width.
        identity: What they are computed of: name -> SHA-256 or value.
        block: Images of a block.
    """

    def __init__(
        self, folder: Path, images: int, sizes: Mapping[float, int], identity: Mapping[str, str], *, block: int = BLOCK
    ):
        self.folder, self.images, self.sizes, self.identity = folder, images, dict(sizes), dict(identity)
        self.parts = [range(start, min(start + block, images)) for start in range(0, images, block)]

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not there yet."""
        return [number for number in range(len(self.parts)) if not self._path(number).is_file()]

    def missing_bytes(self) -> int:
        """What the missing blocks will take."""
        return sum(len(self.parts[number]) for number in self.missing()) * 4 * sum(self.sizes.values())

    def write(self, number: int, features: Mapping[float, Tensor]) -> None:
        """Write a block, whole or not at all: float32 features (images of the block, d) by width."""
        tensors = {str(width): rows.contiguous() for width, rows in features.items()}
        with atomic_path(self._path(number)) as part:
            try:
                save_file(tensors, part, {_HEADER: json.dumps(self.identity)})
            except SafetensorError as error:
                raise UserError(
                    f"{self._path(number)}: not written ({error}); free space, or mend that, and run this stage again"
                ) from error

    def read(self, number: int, width: float) -> Tensor:
        """A block's features (images of the block, d) at one width, mapped into memory.

        Raises:
            UserError: The file is damaged, or of other weights, images or another view.
        """
        path, again = self._path(number), f"remove {self.folder.parent} and run this stage again"
        try:
            with safe_open(path, framework="pt") as file:
                written = dict(json.loads((file.metadata() or {}).get(_HEADER, "{}")))
                rows = file.get_tensor(str(width))
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not a whole file of features ({error}); {again}") from None
        if differs := difference(written, self.identity):
            raise UserError(f"{path}: features of something else ({differs}); {again}")
        if rows.shape != (len(self.parts[number]), self.sizes[width]):
            raise UserError(f"{path}: has features of shape {list(rows.shape)} at width {width}; {again}")
        return rows

    def blocks(self, width: float, numbers: Sequence[int] | None = None) -> Iterator[tuple[range, Tensor]]:
        """Blocks in order, or those of these numbers: indices of their images, and their features at one width."""
        for number in range(len(self.parts)) if numbers is None else numbers:
            yield self.parts[number], self.read(number, width)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"


def difference(written: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """`name: old -> new` for everything that differs, by the first digits of a digest; empty where nothing does."""
    return ", ".join(
        f"{name}: {str(written.get(name, 'none'))[:12]} -> {wanted.get(name, 'none')[:12]}"
        for name in sorted(written.keys() | wanted.keys())
        if written.get(name) != wanted.get(name)
    )


def extract(
    backbone: Backbone,
    loader: Loader,
    features: Features,
    numbers: Sequence[int],
    *,
    keys: Sequence[str],
    goes_on: Callable[[int], bool],
) -> None:
    """Compute and write blocks.

    Args:
        backbone: Gives the features of a batch.
        loader: The blocks' images, one after the other.
        features: Where they go.
        numbers: The blocks.
        keys: Name of every image of the data set, for messages.
        goes_on: Called with the images of every batch; False ends the extraction.

    Raises:
        UserError: A feature is not finite.
    """
    held: dict[float, list[Tensor]] = {width: [] for width in features.sizes}
    waiting, images = 0, iter([index for number in numbers for index in features.parts[number]])
    left = list(numbers)
    for views, labels in loader:
        batch = [next(images) for _ in labels]
        for width, rows in backbone(views[0]).items():
            rows = rows.float().cpu()
            _check_finite(rows, width, [keys[index] for index in batch])
            held[width].append(rows)
        waiting += len(batch)
        while left and waiting >= len(features.parts[left[0]]):
            size, number = len(features.parts[left[0]]), left.pop(0)
            whole = {width: torch.cat(rows) for width, rows in held.items()}
            features.write(number, {width: rows[:size] for width, rows in whole.items()})
            held = {width: [rows[size:]] for width, rows in whole.items()}
            waiting -= size
        if not goes_on(len(batch)):
            return


def _check_finite(rows: Tensor, width: float, keys: Sequence[str]) -> None:
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"features of {keys[bad[0]]} at width {width} are not finite ({len(bad)} of {len(keys)} images of its "
            "batch); the weights are damaged or diverged: train or import them again"
        )
