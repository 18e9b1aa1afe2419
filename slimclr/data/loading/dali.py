"""The DALI loader: decoding and views in DALI's threads, on the CPU or on the GPU.

Bytes and the numbers of every view come from Python in the loader's own order (an external source), so that DALI
decides neither which image comes next nor how it is cropped. Only this module and `views.dali` import DALI.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
from nvidia.dali.types import BatchInfo

from slimclr.data.images.decode import decode_rgb, read_header
from slimclr.data.loading.base import Batch, Loader
from slimclr.data.loading.samplers import TrainingSampler, ValidationSampler
from slimclr.data.stores.base import Images
from slimclr.data.views import dali as dali_views
from slimclr.data.views.draw import draw, view_rng
from slimclr.data.views.recipes import View
from slimclr.workers import become_worker, starting_workers

# Batches that a pipeline may have begun beyond the requested one.
_READ_ON = 4


class Source:
    """The pipeline's input: bytes, labels and the numbers of every view of a batch.

    Picklable, because each worker has a copy. The pipeline counts epochs from when it was built.

    Args:
        images: Encoded images.
        sampler: Which images come in which batch.
        views: Recipes of the views.
        seed: Seed of the views.
        epoch: The pipeline's first epoch.
        start: Its first batch in that epoch.
        spawned: Its processes are spawned, not forked.
    """

    def __init__(
        self,
        images: Images,
        sampler: TrainingSampler | ValidationSampler,
        views: Sequence[View],
        seed: int,
        epoch: int,
        start: int,
        *,
        spawned: bool,
    ):
        self.spawned = spawned
        self.images, self.sampler, self.views, self.seed = images, sampler, tuple(views), seed
        self.epoch, self.start = epoch, start
        self._epoch_idx, self._batches = -1, list[np.ndarray]()
        self._process = os.getpid()

    def __call__(self, info: BatchInfo) -> tuple[Any, ...]:
        """One batch: encoded images, labels, then the numbers of each view.

        Raises:
            StopIteration: The epoch has no more batches.
        """
        if self.spawned and os.getpid() != self._process:
            become_worker(self._process)
            self._process = os.getpid()
        epoch = self.epoch + info.epoch_idx
        if self._epoch_idx != info.epoch_idx:
            self._epoch_idx = info.epoch_idx
            self._batches = self.sampler.batches(epoch, self.start if info.epoch_idx == 0 else 0)
        if info.iteration >= len(self._batches):
            raise StopIteration
        indices = self._batches[info.iteration].tolist()
        keys = [self.images.keys[index] for index in indices]
        files = [self.images.read(index) for index in indices]
        headers = [read_header(data, key) for data, key in zip(files, keys, strict=True)]
        packed = []
        for number, view in enumerate(self.views):
            drawn = [
                draw(view, view_rng(self.seed, epoch, index, number), header.height, header.width)
                for index, header in zip(indices, headers, strict=True)
            ]
            packed.append(dali_views.pack(view, drawn))
        encoded = [
            np.frombuffer(dali_views.dali_bytes(data, key), np.uint8) for data, key in zip(files, keys, strict=True)
        ]
        return encoded, self.images.labels[indices].astype(np.int64), *packed


class DaliLoader(Loader):
    """Batches out of a DALI pipeline.

    Args:
        sampler: Which images come in which batch.
        images: Encoded images.
        views: Recipes of the views.
        seed: Seed of the views.
        workers: DALI's threads; a quarter as many processes read the files. 0: one thread, and this process reads.
        device: A GPU decodes and computes the views; the CPU does both otherwise.
    """

    def __init__(
        self,
        sampler: TrainingSampler | ValidationSampler,
        images: Images,
        views: Sequence[View],
        *,
        seed: int,
        workers: int,
        device: torch.device,
    ):
        super().__init__(sampler)
        self._source = partial(Source, images, sampler, views, seed)
        self._images = images
        self._views, self._workers, self._device = tuple(views), workers, device
        self._names = [f"view{number}" for number in range(len(views))]
        self._iterator: DALIGenericIterator | None = None
        self._next: tuple[int, int] | None = None

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        if self._iterator is None or self._next != (epoch, start):
            self._iterator = self._build(epoch, start)
        # If the caller stops in the middle of an epoch, the pipeline has already read further.
        self._next = None
        try:
            for (outputs,) in self._iterator:
                yield [outputs[name] for name in self._names], outputs["label"].flatten().long()
        except RuntimeError as error:
            if "UserError" not in str(error):
                self._name_unreadable(epoch)
            raise
        self._iterator.reset()
        self._next = (epoch + 1, 0)

    def _name_unreadable(self, epoch: int) -> None:
        """Find the first unreadable image among the batches that DALI may have read: its error does not name one.

        Raises:
            UserError: There is one.
        """
        for indices in self.sampler.batches(epoch, self.batch)[:_READ_ON]:
            for index in indices.tolist():
                decode_rgb(self._images.read(index), self._images.keys[index])

    def _build(self, epoch: int, start: int) -> DALIGenericIterator:
        gpu, spawned = self._device.type == "cuda", torch.cuda.is_initialized()
        pipeline = Pipeline(
            batch_size=self.sampler.batch,
            num_threads=max(1, self._workers),
            device_id=(self._device.index or 0) if gpu else None,
            py_num_workers=max(1, self._workers // 4),
            # A process that holds a CUDA context must not be forked.
            py_start_method="spawn" if spawned else "fork",
        )
        with pipeline:
            encoded, label, *packed = fn.external_source(
                self._source(epoch, start, spawned=spawned),
                num_outputs=2 + len(self._views),
                batch=True,
                batch_info=True,
                parallel=self._workers > 0,
            )
            views = dali_views.build(self._views, encoded, packed, device="mixed" if gpu else "cpu")
            pipeline.set_outputs(*views, label)
        with starting_workers():
            pipeline.build()
        return DALIGenericIterator(
            pipeline, [*self._names, "label"], last_batch_policy=LastBatchPolicy.PARTIAL, prepare_first_batch=False
        )
