"""The torchvision loader: decoding and views in the worker processes of torch's DataLoader."""

from collections.abc import Iterator, Sequence

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from slimclr.data.images.decode import decode_rgb
from slimclr.data.loading.base import Batch, Loader
from slimclr.data.loading.samplers import TrainingSampler, ValidationSampler
from slimclr.data.stores.base import Images
from slimclr.data.views.apply import apply_torchvision
from slimclr.data.views.draw import draw, view_rng
from slimclr.data.views.recipes import View
from slimclr.data.views.tensor import decode_tensor
from slimclr.workers import iterate


class Views(Dataset):
    """Views of one image; what is random about them is drawn from (seed, epoch, index).

    Args:
        images: Encoded images.
        views: Recipes of the views.
        seed: Seed of the views.
        tensors: Compute on tensors instead of Pillow's images.
    """

    def __init__(self, images: Images, views: Sequence[View], *, seed: int, tensors: bool):
        self.images, self.views, self.seed, self.tensors = images, tuple(views), seed, tensors

    def __getitem__(self, item: tuple[int, int]) -> tuple[list[Tensor], int]:
        """Views (3, size, size) and label of the image `index` in `epoch`."""
        epoch, index = item
        data, key = self.images.read(index), self.images.keys[index]
        image: Image.Image | Tensor
        if self.tensors:
            image = decode_tensor(data, key)
            height, width = image.shape[1:]
        else:
            image = decode_rgb(data, key)
            height, width = image.height, image.width
        views = []
        for number, view in enumerate(self.views):
            drawn = draw(view, view_rng(self.seed, epoch, index, number), height, width)
            views.append(apply_torchvision(view, drawn, image))
        return views, int(self.images.labels[index])


class _BatchSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler of torch's DataLoader: (epoch, index) of every image of a batch, from the loader's position."""

    def __init__(self, sampler: TrainingSampler | ValidationSampler):
        self.sampler, self.epoch, self.start = sampler, 0, 0

    def __len__(self) -> int:
        return len(self.sampler) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.sampler.batches(self.epoch, self.start):
            yield [(self.epoch, index) for index in batch.tolist()]


class TorchvisionLoader(Loader):
    """Batches out of torch's DataLoader, whose workers stay from epoch to epoch.

    Args:
        sampler: Which images come in which batch.
        data: Their views.
        workers: Worker processes; 0 loads in this one.
        pin: Copy batches into pinned memory, which needs a CUDA context.
    """

    def __init__(self, sampler: TrainingSampler | ValidationSampler, data: Dataset, *, workers: int, pin: bool = False):
        super().__init__(sampler)
        self._batch_sampler = _BatchSampler(sampler)
        self._loader: DataLoader = DataLoader(
            data,
            batch_sampler=self._batch_sampler,
            num_workers=workers,
            pin_memory=pin,
            persistent_workers=workers > 0,
        )

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        self._batch_sampler.epoch, self._batch_sampler.start = epoch, start
        yield from iterate(self._loader)
