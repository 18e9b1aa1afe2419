"""A kNN classifier for every width, cheap enough to monitor a training."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from slimclr.config import KNN
from slimclr.data.loading.base import Loader
from slimclr.data.loading.loaders import validation_loader
from slimclr.data.stores.base import Images
from slimclr.engine.distributed import Process, broadcast_buffers
from slimclr.errors import UserError
from slimclr.nn import SlimmableResNet
from slimclr.probe.neighbours import knn_predict
from slimclr.seeds import derived_seed

_BATCH = 64


def _share_out(bank: int, queries: int, images: int) -> tuple[int, int]:
    """`bank` and `queries`, both smaller by the same share where there are not so many images."""
    if bank + queries <= images:
        return bank, queries
    if images < 2:
        raise UserError(f"pretrain.knn: needs two images, the training set has {images}; leave knn out")
    fewer = max(1, images * queries // (bank + queries))
    return images - fewer, fewer


class KNNMonitor:
    """Classifies some training images by their neighbours among others, for every width; all processes call it.

    Args:
        settings: How many images, how many neighbours.
        backbone: The network, evaluated with its running statistics.
        images: Training images.
        image_size: Side of the centre crop in pixels; the shorter side is scaled to 8/7 of it.
        seed: Seed of the choice of images.
        process: This process; each takes its share of the images.
        val: Validation images that are classified as well, each exactly once over all processes.

    Where there are fewer images than `bank` and `queries` ask for, both shrink by the same share, which a line says.

    Raises:
        UserError: There is a single image.
    """

    def __init__(
        self,
        settings: KNN,
        backbone: SlimmableResNet,
        images: Images,
        *,
        image_size: int,
        seed: int,
        process: Process,
        val: Loader | None = None,
    ):
        bank, queries = _share_out(settings.bank, settings.queries, len(images))
        if process.main and (bank, queries) != (settings.bank, settings.queries):
            print(
                f"pretrain.knn: bank and queries ask for {settings.bank + settings.queries:,} images, the training set "
                f"has {len(images):,}: bank {bank:,}, queries {queries:,}",
                flush=True,
            )
        self.settings, self.backbone, self.process = settings, backbone, process
        self.classes = len(images.classes)
        order = np.random.default_rng(derived_seed("knn", seed)).permutation(len(images))
        chosen = (order[:bank], order[bank : bank + queries])
        self._loaders = [
            validation_loader(
                images,
                resize=round(image_size * 8 / 7),
                image_size=image_size,
                batch=_BATCH,
                workers=0,
                rank=process.rank,
                world_size=process.world_size,
                chosen=np.sort(part).tolist(),
                device=process.device,
            )
            for part in chosen
        ]
        self._loaders += [] if val is None else [val]

    @torch.no_grad()
    def __call__(self) -> dict[str, Any]:
        """`{"knn": {width: percent right}}`, and `knn_val` likewise where there are validation images."""
        was_training = self.backbone.training
        broadcast_buffers(self.backbone, self.process)
        self.backbone.eval()
        bank, labels = self._features(0)
        values = {
            name: self._right(bank, labels, *self._features(part))
            for part, name in enumerate(("knn", "knn_val")[: len(self._loaders) - 1], start=1)
        }
        self.backbone.train(was_training)
        return values

    def _right(
        self, bank: dict[float, Tensor], labels: Tensor, queries: dict[float, Tensor], targets: Tensor
    ) -> dict[str, float]:
        """Percent of the queries that their neighbours in the bank classify rightly, by width."""
        right = torch.zeros(len(self.backbone.widths) + 1, dtype=torch.float64, device=self.process.device)
        right[-1] = len(targets)
        for index, width in enumerate(self.backbone.widths):
            everything, classes = self._gather(bank[width]), self._gather(labels)
            for rows, wanted in zip(queries[width].split(1024), targets.split(1024), strict=True):
                predicted = knn_predict(
                    rows,
                    [(everything, classes)],
                    classes=self.classes,
                    neighbours=self.settings.neighbours,
                    temperature=self.settings.temperature,
                )
                right[index] += (predicted == wanted).sum()
        if self.process.world_size > 1:
            dist.all_reduce(right)
        *counts, total = right.tolist()
        return {
            str(width): round(100 * count / total, 4) for width, count in zip(self.backbone.widths, counts, strict=True)
        }

    def _features(self, part: int) -> tuple[dict[float, Tensor], Tensor]:
        """Features of unit length of every width, and labels, of this process's share."""
        features: dict[float, list[Tensor]] = {width: [] for width in self.backbone.widths}
        labels = []
        for views, targets in self._loaders[part]:
            images = views[0].to(self.process.device, memory_format=torch.channels_last)
            for width, rows in features.items():
                rows.append(F.normalize(self.backbone(images, width).float(), dim=1))
            labels.append(targets.to(self.process.device))
        none = torch.zeros(0, device=self.process.device)
        return {width: torch.cat(rows or [none]) for width, rows in features.items()}, torch.cat(labels or [none])

    def _gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes, whose numbers may differ."""
        if self.process.world_size == 1:
            return tensor
        rows: list[Any] = [None] * self.process.world_size
        dist.all_gather_object(rows, tensor.cpu())
        return torch.cat(rows).to(self.process.device)
