"""SlimCLR with MoCo v3 (arXiv 2104.02057); with the single width 1.0 it is MoCo v3."""

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, WidthResult, full_precision, momentum_update
from slimclr.methods.gather import gather, rank
from slimclr.nn import MoCoV3Predictor, MoCoV3Projector, SlimmableResNet
from slimclr.optim import key_momentum


class QueryEncoder(nn.Module):
    """Backbone, projector and predictor; the output has unit length."""

    def __init__(self, base: Encoder, predictor: MoCoV3Predictor):
        super().__init__()
        self.base, self.predictor = base, predictor

    def forward(self, images: Tensor, width: float = 1.0, convolved: Tensor | None = None) -> Tensor:
        """(n, 3, h, w) to (n, d); `convolved` as for `Encoder`."""
        return F.normalize(self.predictor(self.base(images, width, convolved), width), dim=1)


class MoCoV3(Method):
    """Momentum contrast within the batch, symmetric; every width's query is compared with the full network's keys.

    Args:
        backbone: The slimmable network; its widths are trained.
        dim: Size of the embedding.
        hidden: Hidden features of projector and predictor at width 1.0.
        momentum: Momentum of the key encoder at the start; it rises to 1 by half a cosine.
        temperature: Temperature of the contrastive loss.
        epochs: Epochs of the whole training, for the momentum.
        slow_start_epoch: Widths below 1.0 join at this epoch.
        combine: Weighs the widths and distils the full network into sub-networks.
    """

    def __init__(
        self,
        backbone: SlimmableResNet,
        *,
        dim: int = 256,
        hidden: int = 4096,
        momentum: float = 0.99,
        temperature: float = 1.0,
        epochs: int,
        slow_start_epoch: int = 0,
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone.widths, slow_start_epoch=slow_start_epoch)
        projector = MoCoV3Projector(backbone.out_features, hidden, dim, backbone.widths, overlap=backbone.overlap)
        base = Encoder(backbone, projector, normalize=False)
        predictor = MoCoV3Predictor(dim, hidden, backbone.widths, overlap=backbone.overlap)
        self.query_encoder = QueryEncoder(base, predictor)
        self.key_encoder = copy.deepcopy(base).requires_grad_(False)
        self.momentum, self.temperature, self.epochs = momentum, temperature, epochs
        self.combine = combine

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of the active widths, summed over both directions; `labels` are not used."""
        keys = self._keys(views)
        targets = torch.arange(len(labels), device=labels.device) + rank() * len(labels)
        widths = self.active_widths(epoch)
        convolved = [self.query_encoder.base.backbone.first_convolutions(view, widths) for view in views]
        queries = {
            width: [self.query_encoder(view, width, known[width]) for view, known in zip(views, convolved, strict=True)]
            for width in widths
        }
        one, two = (
            self._direction({width: both[i] for width, both in queries.items()}, keys[1 - i], targets) for i in (0, 1)
        )
        results = {
            width: WidthResult(result.loss + two.widths[width].loss, result.accuracy)
            for width, result in one.widths.items()
        }
        return Output(one.loss + two.loss, results)

    def _direction(self, queries: dict[float, Tensor], key: Tensor, targets: Tensor) -> Output:
        """One view's queries against the other view's keys."""
        logits = {width: full_precision(query @ key.T) / self.temperature for width, query in queries.items()}
        losses = {width: F.cross_entropy(rows, targets) * 2 * self.temperature for width, rows in logits.items()}
        return self.combine(losses, logits, targets, queries)

    @torch.no_grad()
    def _keys(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Both views' keys (n over all processes, d)."""
        return [gather(F.normalize(self.key_encoder(view), dim=1)) for view in views]

    def before_step(self, epoch: float, step: int, batches: Sequence[Sequence[Tensor]]) -> None:
        """Update the key encoder."""
        momentum = key_momentum(epoch, base=self.momentum, epochs=self.epochs)
        momentum_update(self.key_encoder, self.query_encoder.base, momentum)

    def trainable(self) -> nn.Module:
        """The query encoder with its predictor."""
        return self.query_encoder

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Method.begin_with`; the key encoder begins as a copy of the query's."""
        super().begin_with(tensors)
        self.key_encoder.load_state_dict(self.exported())

    def exported(self) -> dict[str, Tensor]:
        """The base encoder's tensors."""
        return dict(self.query_encoder.base.state_dict())
