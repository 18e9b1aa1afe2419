"""A classifier with its backbone out of files, at the widths it was trained for and at others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slimclr.arch import width_channels
from slimclr.errors import UserError
from slimclr.files import sha256
from slimclr.nn import SlimmableLinear, SwitchableLinear, classifier, width_key
from slimclr.nn.untrained import next_wider, with_further_widths
from slimclr.nn.weights import load_backbone, read_weights
from slimclr.probe.classifier import load_classifier
from slimclr.probe.linear import OwnClassifier


@dataclass(frozen=True)
class Pictures:
    """How an image becomes what a classifier sees.

    Attributes:
        resize: The shorter side before the centre crop, in pixels.
        image_size: Side of that crop.
        views: A probe's or a supervised training's recipe of augmentation, which the validation view follows.
    """

    resize: int
    image_size: int
    views: str

    @property
    def validation(self) -> str:
        """The recipe's name under `validation` in `views.yaml`."""
        return self.views if self.views.startswith("cifar") else "val"


@dataclass(frozen=True)
class Opened:
    """What `open_classifier` found.

    Attributes:
        classifier: With its backbone, on the CPU.
        run: The run that the weights belong to.
        classes: WordNet ids of its outputs; None where the file does not say, as an imported one.
        pictures: How it was evaluated; None where the file does not say.
        batch: Images of a batch when it was evaluated; None where the file does not say.
        loader: Backend of the loader that read them; None where the file does not say.
        weights_sha256: SHA-256 of the weights file.
    """

    classifier: OwnClassifier
    run: str
    classes: tuple[str, ...] | None
    pictures: Pictures | None
    batch: int | None
    loader: str | None
    weights_sha256: str


def open_classifier(weights: Path, kept: Path | None = None) -> Opened:
    """The classifier that a weights file holds, or a probe's with the backbone that it was trained on.

    Args:
        weights: The network.
        kept: `classifier.safetensors` of a probe; None: the weights' own classifier.

    Raises:
        UserError: One of the files is missing, damaged or of another kind, there is no classifier, or it belongs to
            another backbone.
    """
    backbone, header = load_backbone(weights)
    digest, run = sha256(weights), str(header.get("run", ""))
    if kept is None:
        own = OwnClassifier.from_tensors(backbone, *read_weights(weights))
        if own is None:
            raise UserError(
                f"{weights}: holds no classifier (method {header.get('method', 'unknown')}); give its probe's with "
                "--classifier results/probe/<run>/classifier.safetensors"
            )
        classes = header.get("classes")
        return Opened(own, run, None if classes is None else tuple(classes), _pictures(header), None, None, digest)
    head, widths, trained = load_classifier(kept)
    if trained.backbone_sha256 != digest:
        raise UserError(
            f"{kept}: a classifier of another backbone ({trained.arch}, SHA-256 {trained.backbone_sha256[:12]}) than "
            f"{weights} ({backbone.arch}, {digest[:12]}); give the weights of the same run"
        )
    features = {width: width_channels(backbone.out_features, width) for width in backbone.widths}
    if any(features.get(width) != _features(head, width) for width in widths):
        raise UserError(f"{kept}: does not fit {weights}, {backbone.arch}; run the probe stage of this run again")
    probe = OwnClassifier(backbone, head, len(trained.classes))
    probe.widths = widths
    pictures = Pictures(trained.resize, trained.image_size, trained.views)
    return Opened(probe, run, trained.classes, pictures, trained.batch, trained.loader, digest)


def _pictures(header: Mapping[str, Any]) -> Pictures | None:
    """How a supervised network was trained; imported ones do not say."""
    if not {"image_size", "views"} <= header.keys():
        return None
    return Pictures(round(header["image_size"] * 8 / 7), header["image_size"], header["views"])


def with_widths(trained: OwnClassifier, widths: Sequence[float]) -> OwnClassifier:
    """The same classifier at other widths than it was trained for, before its batch norms are recalibrated.

    A width without a classifier of its own gets the first columns of the next wider one's.

    Args:
        trained: What was trained.
        widths: What is wanted, from the widest down; those that were trained stay as they are.

    Raises:
        ValueError: A width does not give whole channels, sub-networks of this network share no channels, or it is a
            width of the network that the classifier was not fine-tuned at.
    """
    if lacking := [width for width in widths if width in trained.backbone.widths and width not in trained.widths]:
        raise ValueError(f"the network has width {lacking[0]}, but the classifier was not trained at it")
    further = [width for width in widths if width not in trained.widths]
    if not further:
        trained.widths = tuple(widths)
        return trained
    backbone = with_further_widths(trained.backbone, further)
    own = trained.head.state_dict()
    switchable = isinstance(trained.head, SwitchableLinear)
    # A fine-tuned classifier also has layers of widths that it was not trained at.
    layers = [width for width in trained.backbone.widths if not switchable or f"linears.{width_key(width)}.bias" in own]
    head = classifier(backbone.out_features, trained.classes, (*layers, *further), switchable=switchable)
    for width in further if switchable else ():
        wider, new = (f"linears.{width_key(of)}" for of in (next_wider(width, trained.widths), width))
        own[f"{new}.weight"] = own[f"{wider}.weight"][:, : _features(head, width)]
        own[f"{new}.bias"] = own[f"{wider}.bias"]
    head.load_state_dict(own)
    other = OwnClassifier(backbone, head, trained.classes)
    other.widths = tuple(widths)
    return other


def _features(head: SlimmableLinear | SwitchableLinear, width: float) -> int:
    """Inputs of a width's layer."""
    assert isinstance(head, SwitchableLinear)
    layer = head.linears[width_key(width)]
    assert isinstance(layer, torch.nn.Linear)
    return layer.in_features
