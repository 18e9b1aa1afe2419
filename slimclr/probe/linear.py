"""Linear probes of all widths in one pass (SlimCLR, section 4.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimclr.losses import mixed_loss
from slimclr.methods.base import Encoder, Method, Output, WidthResult
from slimclr.nn import SlimmableLinear, SlimmableResNet, SwitchableLinear, classifier, width_key


class LinearProbe(Method):
    """One linear classifier per width on a frozen backbone, which stays in eval mode.

    The full width's loss is the cross-entropy with the labels; a sub-width's is the mean of that and the
    cross-entropy with the full width's predictions.

    Args:
        backbone: The frozen network.
        classes: Number of classes.
    """

    def __init__(self, backbone: SlimmableResNet, classes: int):
        super().__init__(backbone.widths)
        self.classes = classes
        self.backbone = backbone.requires_grad_(False).eval()
        self.classifier = classifier(backbone.out_features, classes, backbone.widths, switchable=True)

    def train(self, mode: bool = True) -> "LinearProbe":
        """Switch the classifier; the backbone's batch norm keeps its pre-trained statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def logits(self, images: Tensor, width: float) -> Tensor:
        """(n, 3, h, w) to (n, classes)."""
        with torch.no_grad():
            features = self.backbone(images, width)
        return self.classifier(features, width)

    def losses(self, views: Sequence[Tensor], labels: Tensor, epoch: float) -> Output:
        """Losses of all widths."""
        total, teacher, results = views[0].new_zeros(()), None, {}
        for width in self.widths:
            logits = self.logits(views[0], width)
            if teacher is None:
                teacher, loss = logits, F.cross_entropy(logits, labels)
            else:
                loss = mixed_loss(logits, teacher, labels)
            total = total + loss
            results[width] = WidthResult(loss, (logits.argmax(dim=1) == labels).float().mean())
        return Output(total, results)

    def trainable(self) -> nn.Module:
        """The classifiers."""
        return self.classifier


class OwnClassifier(Encoder):
    """The classifier that a supervised network or an imported probe was trained with; evaluated like a probe."""

    def __init__(self, backbone: SlimmableResNet, head: SlimmableLinear | SwitchableLinear, classes: int):
        super().__init__(backbone, head, normalize=False)
        self.widths, self.classes = backbone.widths, classes

    @classmethod
    def from_tensors(
        cls, backbone: SlimmableResNet, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> "OwnClassifier | None":
        """Build it from the tensors of a weights file, `head.*`; None where they hold no classifier.

        Args:
            backbone: Its network.
            tensors: Of the weights file.
            header: Of the weights file: a fine-tuned one may have trained some of the widths alone.
        """
        state = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
        switchable = f"linears.{width_key(1.0)}.weight"
        if switchable not in state and state.keys() != {"weight", "bias"}:
            return None
        classes = len(state[switchable] if switchable in state else state["weight"])
        head = classifier(
            backbone.out_features, classes, backbone.widths, switchable=switchable in state, overlap=backbone.overlap
        )
        head.load_state_dict(state)
        own = cls(backbone, head, classes)
        own.widths = tuple(header.get("finetuned_widths", backbone.widths))
        return own

    def logits(self, images: Tensor, width: float) -> Tensor:
        """(n, 3, h, w) to (n, classes)."""
        return self(images, width)
