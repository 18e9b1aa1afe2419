"""Fine-tuning of a pre-trained network and a new classifier with labels."""

from collections.abc import Sequence

from torch import Tensor

from slimclr.methods.base import SubNetworkLoss, full_precision
from slimclr.methods.supervised import Supervised
from slimclr.nn import SlimmableResNet, width_key


class FineTuning(Supervised):
    """Cross-entropy at some of a network's widths, or all.

    Args:
        backbone: The pre-trained network.
        classes: Number of classes.
        widths: Those that are trained and evaluated.
        classifier: As for `Supervised`.
        combine: Weighs the widths; with a distillation narrower ones also learn from the widest that is trained.
    """

    def __init__(
        self,
        backbone: SlimmableResNet,
        *,
        classes: int,
        widths: Sequence[float],
        classifier: str = "switchable",
        combine: SubNetworkLoss,
    ):
        super().__init__(backbone, classes=classes, classifier=classifier, combine=combine)
        self.widths, self.classes = tuple(sorted(widths, reverse=True)), classes

    def require_gradients(self, epoch: float) -> None:
        """What belongs to other widths alone stays as it is."""
        trained = {width_key(width) for width in self.widths}
        known = {width_key(width) for width in self.encoder.backbone.widths}
        for name, parameter in self.named_parameters():
            owner = known.intersection(name.split("."))
            parameter.requires_grad_(not owner or bool(owner & trained))

    def logits(self, images: Tensor, width: float) -> Tensor:
        """(n, 3, h, w) to (n, classes)."""
        return full_precision(self.encoder(images, width))

    def exported(self) -> dict[str, Tensor]:
        """Tensors of the trained widths and of the full network; of all where sub-networks share no channels."""
        backbone = self.encoder.backbone
        other = {width_key(width) for width in backbone.widths if width not in self.exported_widths()}
        return {name: tensor for name, tensor in super().exported().items() if not other.intersection(name.split("."))}

    def exported_widths(self) -> tuple[float, ...]:
        """Widths of the exported network; the full network, which a network needs, is there even if untrained."""
        backbone = self.encoder.backbone
        return tuple(width for width in backbone.widths if width in (1.0, *self.widths) or not backbone.overlap)
