"""Mask R-CNN on a slimmable backbone, all widths trained jointly."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmdet.models.detectors import MaskRCNN
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor


@MODELS.register_module()
class SlimmableMaskRCNN(MaskRCNN):
    """mmdet's Mask R-CNN with a width as an argument of each call; nothing remembers a current width.

    mmdet hands the images of `forward` unopened to `extract_feat`, so the width travels with them as a pair.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        heads = [self.rpn_head, self.roi_head.bbox_head]
        # Coordinates and losses: in half precision a place of 1333 px would be known to 4 px.
        for head in [*heads, self.roi_head.mask_head] if self.with_mask else heads:
            head.register_forward_hook(lambda head, given, output: in_single_precision(output))

    @property
    def widths(self) -> tuple[float, ...]:
        """Width multipliers, from the widest down."""
        return self.backbone.widths

    def extract_feat(self, batch_inputs: tuple[Tensor, float]) -> tuple[Tensor, ...]:
        """Map images (n, 3, h, w) and a width to FPN's levels."""
        images, width = batch_inputs
        # RoIAlign takes the corners of regions in its maps' precision, too coarse in half, and reads maps row by row.
        levels = in_single_precision(self.neck(self.backbone(images, width)))
        return tuple(level.contiguous() for level in levels)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[DetDataSample] | None = None,
        mode: str = "tensor",
        width: float = 1.0,
    ) -> Any:
        """Run one width; the other arguments and the result are those of mmdet's `BaseDetector.forward`."""
        return super().forward((inputs, width), data_samples, mode)

    def train_step(self, data: dict[str, Any], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimiser step on the sum of every width's gradients on the same batch.

        Returns:
            `loss`, the sum, and `loss_<width>` for the log.
        """
        return joint_step(self, self, data, optim_wrapper)

    def predict_step(self, data: dict[str, Any], width: float) -> list[DetDataSample]:
        """Predictions of one width for a batch of the loader, in the coordinates of the original images."""
        return self(**self.data_preprocessor(data, False), mode="predict", width=width)


def in_single_precision(values: Any) -> Any:
    """Tensors of lower precision as single precision; tuples and lists of them likewise."""
    if isinstance(values, Tensor):
        return values.to(torch.promote_types(values.dtype, torch.float32))
    return type(values)(map(in_single_precision, values))


@MODEL_WRAPPERS.register_module()
class SlimmableDataParallel(MMDistributedDataParallel):
    """Distributed data parallel for `SlimmableMaskRCNN`: gradients are averaged once per step, not once per width."""

    def train_step(self, data: dict[str, Any], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """See `SlimmableMaskRCNN.train_step`."""
        return joint_step(self, self.module, data, optim_wrapper)


def joint_step(
    model: SlimmableMaskRCNN | SlimmableDataParallel,
    detector: SlimmableMaskRCNN,
    data: dict[str, Any],
    optim_wrapper: OptimWrapper,
) -> dict[str, Tensor]:
    """Run every width forward and backward, then step once.

    One backward pass per width keeps one width's activations in memory at a time. All widths in one graph would need
    no care in the distributed case, but about three times the memory, which 8 images a GPU do not leave.

    Args:
        model: What is called: the detector, or its distributed wrapper.
        detector: The detector itself.
        data: A batch of the loader.
        optim_wrapper: Holds the optimiser; clips the summed gradient.

    Returns:
        `loss`, the sum, and `loss_<width>`.
    """
    batch = detector.data_preprocessor(data, True)
    losses: dict[str, Tensor] = {}
    for width in detector.widths:
        last = width == detector.widths[-1]
        distributed = isinstance(model, SlimmableDataParallel)
        # Gradients gather locally; the last backward pass averages the sums over the processes.
        with model.no_sync() if distributed and not last else nullcontext():
            with optim_wrapper.optim_context(model):
                loss, _ = detector.parse_losses(model(**batch, mode="loss", width=width))
            losses[f"loss_{width}"] = loss.detach()
            if distributed and last:
                # The reducer averages only parameters that this pass reaches: touch the other widths' batch norms.
                loss = loss + 0 * sum(tensor.sum() for tensor in detector.backbone.other_parameters(width))
            optim_wrapper.backward(loss)
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}
