"""Supervised slimmable training (arXiv 1812.08928)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from slimclr.methods.base import Encoder, Method, Output, SubNetworkLoss, full_precision
from slimclr.nn import SlimmableResNet
from slimclr.nn import classifier as linear_classifier


class Supervised(Method):
    """Cross-entropy with labels.

    Args:
        backbone: The slimmable network; its widths are trained.
        classes: Number of classes.
        classifier: "slimmable": sub-networks use a part of one classifier; "switchable": each width has its own.
        slow_start_epoch: Widths below 1.0 join at this epoch.
        combine: Weighs the widths; with a distillation sub-networks also learn from the full network (in place).
    """

    def __init__(
        self,
        backbone: SlimmableResNet,
        *,
        classes: int,
        classifier: str = "slimmable",
        slow_start_epoch: int = 0,
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone.widths, slow_start_epoch=slow_start_epoch)
        switchable = classifier == "switchable"
        head = linear_classifier(
            backbone.out_features, classes, backbone.widths, switchable=switchable, overlap=backbone.overlap
        )
        self.encoder = Encoder(backbone, head, normalize=False)
        self.combine = combine

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of the active widths."""
        widths = self.active_widths(epoch)
        convolved = self.encoder.backbone.first_convolutions(views[0], widths)
        logits = {width: full_precision(self.encoder(views[0], width, convolved[width])) for width in widths}
        losses = {width: F.cross_entropy(rows, labels) for width, rows in logits.items()}
        return self.combine(losses, logits, labels)

    def exported(self) -> dict[str, Tensor]:
        """The encoder's tensors; the classifier's start with `head.`."""
        return dict(self.encoder.state_dict())
