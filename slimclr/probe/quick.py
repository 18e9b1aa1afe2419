"""Quick probes of one width: nearest neighbours, ridge and logistic regression on stored features, on all processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from slimclr.engine.distributed import Process
from slimclr.engine.preemption import Preempted, StopRequest
from slimclr.errors import UserError
from slimclr.probe.features import Features
from slimclr.probe.logistic import logistic_scores
from slimclr.probe.neighbours import nearest, ranks, votes
from slimclr.probe.ridge import Classifier, Moments, penalty_unit, ridge
from slimclr.seeds import derived_seed


@dataclass(frozen=True)
class Stop:
    """Ends work on blocks when a signal asked for it, on all processes together.

    Attributes:
        request: The stop that a signal asks for.
        process: This process.
        name: What is done, for messages.
        folder: Where it stays.
    """

    request: StopRequest
    process: Process
    name: str
    folder: Path

    def goes_on(self) -> bool:
        """Whether this process was not asked to stop."""
        return not self.request.signal

    def check(self, fault: UserError | None = None) -> None:
        """Called by all processes at the same place.

        Args:
            fault: Why this process cannot go on.

        Raises:
            UserError: This or another process cannot go on.
            Preempted: One of them was asked to stop.
        """
        told = torch.tensor([float(not self.goes_on()), float(fault is not None)], device=self.process.device)
        if self.process.world_size > 1:
            dist.all_reduce(told)
        asked, failed = told.tolist()
        if failed:
            raise fault or UserError(f"{self.name}: stopped, as another process cannot go on; see its error")
        if asked:
            raise Preempted(
                f"{self.name}: asked to stop ({self.request.signal or 'another process was'}); what is done stays in "
                f"{self.folder}; run this stage again, it goes on from there"
            )


@dataclass(frozen=True)
class Labelled:
    """A data set's features with its labels.

    Attributes:
        features: Stored features of all images.
        labels: int64 (images,), on the CPU.
    """

    features: Features
    labels: Tensor

    def blocks(self, width: float, numbers: Sequence[int] | None = None) -> Iterator[tuple[range, Tensor, Tensor]]:
        """Indices, features and labels of blocks, as `Features.blocks`."""
        for part, rows in self.features.blocks(width, numbers):
            yield part, rows, self.labels[part.start : part.stop]


@dataclass(frozen=True)
class QuickProbes:
    """The quick probes of a frozen backbone's widths; all processes call them and get the same figures.

    Attributes:
        train: Training images.
        val: Validation images, all of which are classified.
        classes: Number of classes.
        process: This process; blocks are shared out.
        stop: Ends the run on request, with `Preempted`.
    """

    train: Labelled
    val: Labelled
    classes: int
    process: Process
    stop: Stop

    def knn(self, width: float, neighbours: Sequence[int], temperatures: Sequence[float]) -> dict[str, float]:
        """`knn_top1_k<neighbours>_t<temperature>` and `knn_top5_...` in percent.

        A class that no neighbour votes for is none of the five.
        """
        own = list(self._blocks(self.val, width))
        settings = [(k, t) for k in neighbours for t in temperatures]
        hits = torch.zeros(len(settings), 2, dtype=torch.float64, device=self.process.device)
        if own:
            queries = F.normalize(torch.cat([self._here(rows) for _, rows, _ in own]), dim=1)
            targets = torch.cat([self._here(labels) for _, _, labels in own])
            cosines, found = nearest(queries, self._bank(width), max(neighbours))
            del queries
            for row, (k, t) in enumerate(settings):
                for some in torch.arange(len(targets), device=self.process.device).split(1024):
                    sums = votes(cosines[some], found[some], classes=self.classes, neighbours=k, temperature=t)
                    voted = (found[some, :k] == targets[some, None]).any(dim=1)
                    hits[row] += _hits(torch.where(voted, ranks(sums, targets[some]), self.classes + 5))
        percent = self._percent(hits).tolist()
        return {
            f"knn_top{top}_k{k}_t{t:g}": figures[place]
            for (k, t), figures in zip(settings, percent, strict=True)
            for place, top in enumerate((1, 5))
        }

    def ridge(self, width: float, penalties: Sequence[float], *, held_out: float, seed: int) -> dict[str, Any]:
        """Ridge with the penalty that is best on held-out training images, trained again on all of them.

        Args:
            width: Which sub-network's features.
            penalties: See `slimclr.probe.ridge.ridge`.
            held_out: Share of the training images that choose.
            seed: Draws them.

        Returns:
            `ridge_top1` and `ridge_top5` in percent; `ridge_penalty`, the chosen one, and `ridge_alpha`, the same as
            scikit-learn counts; `ridge_held_out_top1`: penalty -> percent of the held-out images.

        Raises:
            UserError: There are fewer images than classes.
        """
        chosen = _drawn(len(self.train.labels), held_out, seed)
        fitted, rest = self._moments(width, chosen)
        hits = self._accuracies(self.train, width, ridge(fitted, penalties), chosen)[:, 0].tolist()
        # Of equally good penalties the largest.
        best = max(range(len(penalties)), key=lambda one: (hits[one], penalties[one]))
        whole = fitted + rest
        (top1, top5), *_ = self._accuracies(self.val, width, ridge(whole, penalties[best : best + 1])).tolist()
        return {
            "ridge_top1": top1,
            "ridge_top5": top5,
            "ridge_penalty": penalties[best],
            "ridge_alpha": penalties[best] * penalty_unit(whole),
            "ridge_held_out_top1": {f"{penalty:g}": hit for penalty, hit in zip(penalties, hits, strict=True)},
        }

    def logistic(self, width: float) -> dict[str, float]:
        """`logistic_top1` and `logistic_top5` in percent; the first process computes them, all features in memory."""
        hits = torch.zeros(1, 2, dtype=torch.float64, device=self.process.device)
        if self.process.main:
            train, val = (torch.cat([rows for _, rows in one.features.blocks(width)]) for one in (self.train, self.val))
            scores = logistic_scores(train, self.train.labels, val, classes=self.classes)
            hits[0] = _hits(ranks(scores, self.val.labels)).to(self.process.device)
        ((top1, top5),) = self._percent(hits).tolist()
        return {"logistic_top1": top1, "logistic_top5": top5}

    def _blocks(self, data: Labelled, width: float) -> Iterator[tuple[range, Tensor, Tensor]]:
        """This process's share of the blocks, until the run is to stop."""
        rank, world_size = self.process.rank, self.process.world_size
        for block in data.blocks(width, range(len(data.features.parts))[rank::world_size]):
            if not self.stop.goes_on():
                return
            yield block

    def _bank(self, width: float) -> Iterator[tuple[Tensor, Tensor]]:
        """All training features, of unit length, until the run is to stop."""
        for _, rows, labels in self.train.blocks(width):
            if not self.stop.goes_on():
                return
            yield F.normalize(self._here(rows), dim=1), self._here(labels)

    def _moments(self, width: float, chosen: Tensor) -> tuple[Moments, Moments]:
        """The sums over the training images that `chosen` does not mark, and over those that it does."""
        size, device = self.train.features.sizes[width], self.process.device
        both = Moments.zero(size, self.classes, device), Moments.zero(size, self.classes, device)
        for part, rows, labels in self._blocks(self.train, width):
            mine = chosen[part.start : part.stop]
            for sums, some in zip(both, (~mine, mine), strict=True):
                sums.add(self._here(rows[some]), self._here(labels[some]))
        for sums in both:
            for tensor in sums.tensors():
                self._sum(tensor)
        self.stop.check()
        return both

    def _accuracies(
        self, data: Labelled, width: float, classifiers: Sequence[Classifier], chosen: Tensor | None = None
    ) -> Tensor:
        """Top-1 and top-5 in percent (classifiers, 2), of all images or of those that `chosen` marks."""
        hits = torch.zeros(len(classifiers), 2, dtype=torch.float64, device=self.process.device)
        for part, rows, labels in self._blocks(data, width):
            if chosen is not None:
                mine = chosen[part.start : part.stop]
                rows, labels = rows[mine], labels[mine]
            features, targets = self._here(rows), self._here(labels)
            for row, classifier in enumerate(classifiers):
                hits[row] += _hits(ranks(classifier.scores(features), targets))
        return self._percent(hits, len(data.labels) if chosen is None else int(chosen.sum()))

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.process.device)

    def _sum(self, tensor: Tensor) -> None:
        """Add up what the processes have, in place."""
        if self.process.world_size > 1:
            dist.all_reduce(tensor)

    def _percent(self, hits: Tensor, images: int | None = None) -> Tensor:
        self._sum(hits)
        self.stop.check()
        return (100 * hits / (len(self.val.labels) if images is None else images)).cpu()


def _hits(found: Tensor) -> Tensor:
    """Ranks (n,) to the numbers of those in top-1 and top-5, (2,) float64."""
    return torch.stack([(found < 1).sum(), (found < 5).sum()]).double()


def held_out_count(images: int, share: float) -> int:
    """How many images are held out to choose ridge's penalty."""
    return min(max(1, round(share * images)), images - 1)


def _drawn(images: int, share: float, seed: int) -> Tensor:
    """Which images are held out: at least one, and not all."""
    count = held_out_count(images, share)
    chosen = torch.zeros(images, dtype=torch.bool)
    order = np.random.default_rng(derived_seed("held out", seed)).permutation(images)
    chosen[torch.from_numpy(order[:count])] = True
    return chosen
