"""SlimCLR with MoCo v2 (SlimCLR, section 3; MoCo v2, arXiv 2003.04297); with the single width 1.0 it is MoCo v2."""

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.losses import info_nce_logits
from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, full_precision, momentum_update
from slimclr.methods.gather import gather, shuffle, unshuffle
from slimclr.nn import MLP, SlimmableResNet


class MoCoV2(Method):
    """Momentum contrast with a queue; every width's query is compared with the full network's key.

    Args:
        backbone: The slimmable network; its widths are trained.
        dim: Size of the embedding.
        queue: Keys in the queue; a multiple of the batch over all processes.
        momentum: Momentum of the key encoder.
        temperature: Temperature of the contrastive loss.
        head: "slimmable": sub-networks use a part of the full network's head; "switchable": each has its own.
        head_init: See `slimclr.nn.MLP`.
        bn_splits: Parts of a batch, each normalised by itself, with the keys shuffled over the parts: imitates that
            many processes on one device. 1 leaves the batch whole.
        seed: Seed of the keys' shuffling.
        slow_start_epoch: Widths below 1.0 join at this epoch.
        combine: Weighs the widths and distils the full network into sub-networks.
    """

    queue: Tensor
    queue_pointer: Tensor

    def __init__(
        self,
        backbone: SlimmableResNet,
        *,
        dim: int = 128,
        queue: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        head: str = "slimmable",
        head_init: str = "normal",
        bn_splits: int = 1,
        seed: int = 0,
        slow_start_epoch: int = 0,
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone.widths, slow_start_epoch=slow_start_epoch)
        mlp = MLP(
            backbone.out_features,
            dim,
            backbone.widths,
            switchable=head == "switchable",
            init=head_init,
            overlap=backbone.overlap,
        )
        self.query_encoder = Encoder(backbone, mlp)
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        self.momentum, self.temperature = momentum, temperature
        self.bn_splits, self.seed = bn_splits, seed
        self.combine = combine
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))
        self._new_keys: list[Tensor] = []

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float, step: int = 0) -> Output:
        """Losses of the active widths; `labels` are not used.

        `views` are the query's and the key's, then each sub-network's where they have their own ("diff", "sweet").
        """
        query_images, key_images, *own = views
        key = self._key(key_images, step)
        targets = torch.zeros_like(labels)
        widths = self.active_widths(epoch)
        convolved = {} if own else self.query_encoder.backbone.first_convolutions(query_images, widths)
        queries = {
            width: self._query(own[index - 1] if own and index else query_images, width, convolved.get(width))
            for index, width in enumerate(widths)
        }
        # One product with the queue for all widths: it is the largest matrix of the step.
        everyone = torch.cat(list(queries.values()))
        rows = full_precision(info_nce_logits(everyone, key.repeat(len(widths), 1), self.queue))
        logits = dict(zip(widths, rows.chunk(len(widths)), strict=True))
        losses = {width: F.cross_entropy(own_rows / self.temperature, targets) for width, own_rows in logits.items()}
        return self.combine(losses, logits, targets, queries)

    @torch.no_grad()
    def _key(self, images: Tensor, step: int) -> Tensor:
        """The full network's keys (n, d); they enter the queue at the end of the step."""
        images, order = shuffle(images, seed=self.seed, step=step, always=self.bn_splits > 1)
        keys = torch.cat([self.key_encoder(part) for part in images.chunk(self.bn_splits)])
        keys = unshuffle(keys, order).to(self.queue.dtype)
        self._new_keys.append(keys)
        return keys

    def _query(self, images: Tensor, width: float, convolved: Tensor | None) -> Tensor:
        """Queries of one width (n, d)."""
        first = [None] * self.bn_splits if convolved is None else convolved.chunk(self.bn_splits)
        parts = zip(images.chunk(self.bn_splits), first, strict=True)
        return torch.cat([self.query_encoder(part, width, known) for part, known in parts])

    def before_step(self, epoch: float) -> None:
        """Update the key encoder."""
        momentum_update(self.key_encoder, self.query_encoder, self.momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        """Enqueue the step's keys of all processes, in place of the oldest."""
        keys = torch.cat([gather(key) for key in self._new_keys])
        slots = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue[:, slots] = keys.T
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % self.queue.shape[1])
        self._new_keys.clear()

    def trainable(self) -> nn.Module:
        """The query encoder."""
        return self.query_encoder

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Method.begin_with`; the key encoder begins as a copy of the query's."""
        super().begin_with(tensors)
        self.key_encoder.load_state_dict(self.exported())

    def exported(self) -> dict[str, Tensor]:
        """The query encoder's tensors."""
        return dict(self.query_encoder.state_dict())
