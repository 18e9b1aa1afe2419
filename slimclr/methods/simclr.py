"""SlimCLR with SimCLR (arXiv 2002.05709); with the single width 1.0 it is SimCLR."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.losses import nt_xent_logits
from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, full_precision
from slimclr.methods.gather import gather_with_gradient, rank, world_size
from slimclr.nn import SimCLRHead, SlimmableResNet


class SimCLR(Method):
    """Two views of every image, negatives within the batch of all processes.

    Args:
        backbone: The slimmable network; its widths are trained.
        dim: Size of the embedding.
        hidden: Hidden features of the head at width 1.0; None: as many as the backbone has.
        temperature: Temperature of the contrastive loss.
        gradient_scale: "true": the gradient of the mean loss over all processes, so that two processes equal one with
            the double batch; "reference": divided by the number of processes, as the reference's gathering does.
        slow_start_epoch: Widths below 1.0 join at this epoch.
        combine: Weighs the widths and distils the full network into sub-networks.
    """

    def __init__(
        self,
        backbone: SlimmableResNet,
        *,
        dim: int = 128,
        hidden: int | None = None,
        temperature: float = 0.1,
        gradient_scale: str = "true",
        slow_start_epoch: int = 0,
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone.widths, slow_start_epoch=slow_start_epoch)
        features = backbone.out_features
        head = SimCLRHead(features, hidden or features, dim, backbone.widths, overlap=backbone.overlap)
        self.encoder = Encoder(backbone, head)
        self.temperature, self.gradient_scale = temperature, gradient_scale
        self.combine = combine

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of the active widths; `labels` are not used."""
        losses, logits, features = {}, {}, {}
        targets = torch.zeros(2 * len(labels), dtype=torch.long, device=labels.device)
        widths = self.active_widths(epoch)
        convolved = [self.encoder.backbone.first_convolutions(view, widths) for view in views]
        for width in widths:
            # Batch norm sees one view at a time, as in the reference.
            first, second = (
                full_precision(self.encoder(view, width, known[width]))
                for view, known in zip(views, convolved, strict=True)
            )
            everything = [gather_with_gradient(first), gather_with_gradient(second)]
            logits[width] = nt_xent_logits(first, second, *everything, offset=rank() * len(first))
            losses[width] = F.cross_entropy(logits[width] / self.temperature, targets)
            features[width] = torch.cat([first, second])
        output = self.combine(losses, logits, targets, features)
        if self.gradient_scale == "reference":
            # The value stays, the gradient shrinks.
            scaled = output.loss.detach() + (output.loss - output.loss.detach()) / world_size()
            return replace(output, loss=scaled)
        return output

    def trainable(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def exported(self) -> dict[str, Tensor]:
        """The encoder's tensors."""
        return dict(self.encoder.state_dict())
