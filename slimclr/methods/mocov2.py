"""SlimCLR with MoCo v2 (SlimCLR, section 3; MoCo v2, arXiv 2003.04297); with the single width 1.0 it is MoCo v2."""

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.losses import info_nce_logits
from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, full_precision, momentum_update
from slimclr.methods.gather import deal, gather, rank, world_size
from slimclr.nn import MLP, SlimmableResNet
from slimclr.nn.running_statistics import statistics_kept


class MoCoV2(Method):
    """Momentum contrast with a queue; every width's query is compared with the full network's key.

    The keys of a whole optimiser step are computed before its first query, and shuffled over all batches that a batch
    norm sees alone, whether these are on several processes or accumulated on one: the result is the same.

    Args:
        backbone: The slimmable network; its widths are trained.
        dim: Size of the embedding.
        queue: Keys in the queue; a multiple of the batch over all processes.
        momentum: Momentum of the key encoder.
        temperature: Temperature of the contrastive loss.
        head: "slimmable": sub-networks use a part of the full network's head; "switchable": each has its own.
        head_init: See `slimclr.nn.MLP`.
        seed: Seed of the keys' shuffling.
        slow_start_epoch: Widths below 1.0 join at this epoch.
        combine: Weighs the widths and distils the full network into sub-networks.
    """

    needs_whole_step = True
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
        self.seed, self.combine = seed, combine
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))
        # Keys of the step's coming batches on this process, and of all images of all processes.
        self._keys: deque[Tensor] = deque()
        self._new_keys = torch.empty(0, dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of the active widths; `labels` are not used.

        `views` are the query's and the key's, then each sub-network's where they have their own ("diff", "sweet").
        """
        query_images, _, *own = views
        key = self._keys.popleft()
        targets = torch.zeros_like(labels)
        widths = self.active_widths(epoch)
        convolved = {} if own else self.query_encoder.backbone.first_convolutions(query_images, widths)
        queries = {
            width: self.query_encoder(own[index - 1] if own and index else query_images, width, convolved.get(width))
            for index, width in enumerate(widths)
        }
        # One product with the queue for all widths: it is the largest matrix of the step.
        everyone = torch.cat(list(queries.values()))
        rows = full_precision(info_nce_logits(everyone, key.repeat(len(widths), 1), self.queue))
        logits = dict(zip(widths, rows.chunk(len(widths)), strict=True))
        losses = {width: F.cross_entropy(own_rows / self.temperature, targets) for width, own_rows in logits.items()}
        return self.combine(losses, logits, targets, queries)

    @torch.no_grad()
    def before_step(self, epoch: float, step: int, batches: Sequence[Sequence[Tensor]]) -> None:
        """Update the key encoder, and compute the step's keys.

        The images of the whole step are in memory for that, on every process: at 224 px in single precision 0.6 MB for
        each view of an image, and as much again for the shuffled ones.
        """
        momentum_update(self.key_encoder, self.query_encoder, self.momentum)
        images, order = deal([key_images for _, key_images, *_ in batches], seed=self.seed, step=step)
        shuffled = []
        for number, part in enumerate(images):
            # Running statistics follow one batch of a step on each process, as with a process for each batch.
            with statistics_kept(self.key_encoder) if number else nullcontext():
                shuffled.append(self.key_encoder(part).to(self.queue.dtype))
        self._new_keys = gather(torch.cat(shuffled))[order.argsort()]
        own = self._new_keys.chunk(world_size())[rank()]
        self._keys = deque(own.chunk(len(batches)))

    @torch.no_grad()
    def after_step(self) -> None:
        """Enqueue the step's keys of all processes, in place of the oldest."""
        keys = self._new_keys
        slots = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue[:, slots] = keys.T
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % self.queue.shape[1])

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
