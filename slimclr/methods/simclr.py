"""SlimCLR with SimCLR (arXiv 2002.05709); with the single width 1.0 it is SimCLR."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.losses import nt_xent_logits
from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, full_precision
from slimclr.methods.gather import gather_with_gradient, rank
from slimclr.nn import SimCLRHead, SlimmableResNet


class SimCLR(Method):
    """Two views of every image, negatives within the batch of all processes.

    Args:
        backbone: The slimmable network; its widths are trained.
        dim: Size of the embedding.
        temperature: Temperature of the contrastive loss.
        slow_start_epoch: Widths below 1.0 join at this epoch.
        combine: Weighs the widths and distils the full network into sub-networks.
    """

    def __init__(
        self,
        backbone: SlimmableResNet,
        *,
        dim: int = 128,
        temperature: float = 0.1,
        slow_start_epoch: int = 0,
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone.widths, slow_start_epoch=slow_start_epoch)
        self.encoder = Encoder(backbone, SimCLRHead(backbone.out_features, dim, backbone.widths))
        self.temperature = temperature
        self.combine = combine

    def forward(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of the active widths; `labels` are not used."""
        losses, all_logits = {}, {}
        targets = torch.zeros(2 * len(labels), dtype=torch.long, device=labels.device)
        for width in self.active_widths(epoch):
            # Batch norm sees one view at a time, as in the reference.
            first, second = (full_precision(self.encoder(view, width)) for view in views)
            everything = [gather_with_gradient(first), gather_with_gradient(second)]
            logits = nt_xent_logits(first, second, *everything, offset=rank() * len(first))
            losses[width] = F.cross_entropy(logits / self.temperature, targets)
            all_logits[width] = logits
        return self.combine(losses, all_logits, targets)

    def trainable(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def exported(self) -> dict[str, Tensor]:
        """The encoder's tensors."""
        return dict(self.encoder.state_dict())
