"""SlimCLR with MoCo v2 (SlimCLR, section 3; MoCo v2, arXiv 2003.04297); with the single width 1.0 it is MoCo v2."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.losses import info_nce_logits
from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, full_precision, move_average
from slimclr.methods.gather import gather, shuffle, unshuffle
from slimclr.nn import SlimmableMLP, SlimmableResNet


class MoCoV2(Method):
    """Momentum contrast with a queue; every width's query is compared with the full network's key.

    Args:
        backbone: The slimmable network; its widths are trained.
        dim: Size of the embedding.
        queue: Keys in the queue; a multiple of the batch over all processes.
        momentum: Momentum of the key encoder.
        temperature: Temperature of the contrastive loss.
        head_init: See `SlimmableMLP`.
        bn_splits: Parts that a batch is computed in, each with its own batch norm and the keys dealt out anew: imitates
            that many processes on one device. 1 leaves the batch whole.
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
        head_init: str = "normal",
        bn_splits: int = 1,
        slow_start_epoch: int = 0,
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone.widths, slow_start_epoch=slow_start_epoch)
        head = SlimmableMLP(backbone.out_features, dim, backbone.widths, init=head_init)
        self.query_encoder = Encoder(backbone, head)
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        self.momentum, self.temperature = momentum, temperature
        self.bn_splits = bn_splits
        self.combine = combine
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))

    def forward(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of the active widths; moves the key encoder and the queue on. `labels` are not used."""
        query_images, key_images = views
        key = self._key(key_images)
        # A copy, because the queue moves on before the backward pass reads it.
        queue = self.queue.clone()
        losses, all_logits = {}, {}
        for width in self.active_widths(epoch):
            logits = full_precision(info_nce_logits(self._query(query_images, width), key, queue))
            losses[width] = F.cross_entropy(logits / self.temperature, logits.new_zeros(len(logits), dtype=torch.long))
            all_logits[width] = logits
        self._enqueue(key)
        return self.combine(losses, all_logits, torch.zeros_like(labels))

    @torch.no_grad()
    def _key(self, images: Tensor) -> Tensor:
        """The full network's keys (n, d), from the key encoder after its moving average."""
        move_average(self.key_encoder, self.query_encoder, self.momentum)
        images, order = shuffle(images, deal=self.bn_splits > 1)
        keys = torch.cat([self.key_encoder(part) for part in images.chunk(self.bn_splits)])
        return unshuffle(keys, order).to(self.queue.dtype)

    def _query(self, images: Tensor, width: float) -> Tensor:
        """Queries of one width (n, d)."""
        return torch.cat([self.query_encoder(part, width) for part in images.chunk(self.bn_splits)])

    @torch.no_grad()
    def _enqueue(self, key: Tensor) -> None:
        """Put the keys of all processes into the queue, the oldest go."""
        keys = gather(key)
        slots = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue[:, slots] = keys.T
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % self.queue.shape[1])

    def trainable(self) -> nn.Module:
        """The query encoder."""
        return self.query_encoder

    def exported(self) -> dict[str, Tensor]:
        """The query encoder's tensors."""
        return dict(self.query_encoder.state_dict())
