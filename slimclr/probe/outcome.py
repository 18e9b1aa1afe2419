"""What comes out of a probe's training: the classifiers that are kept, and what metrics.json says of them."""

from dataclasses import dataclass, field
from typing import Any

import torch

from slimclr.data.loading.base import Loader
from slimclr.nn import SlimmableLinear, SlimmableResNet, SwitchableLinear
from slimclr.probe.evaluation import evaluate
from slimclr.probe.grid import Accuracies, GridProbe, choose, chosen_head, evaluate_candidates
from slimclr.probe.linear import LinearProbe, OwnClassifier


@dataclass(frozen=True)
class Outcome:
    """Classifiers with their accuracies.

    Attributes:
        head: The classifiers that are kept.
        accuracies: Theirs, on the validation images.
        values: What else metrics.json says.
    """

    head: SlimmableLinear | SwitchableLinear
    accuracies: Accuracies
    values: dict[str, Any] = field(default_factory=dict)


def outcome(method: LinearProbe | OwnClassifier, loader: Loader, device: torch.device) -> Outcome:
    """Of a probe without a choice.

    Args:
        method: After training.
        loader: Every validation image exactly once over all processes; all processes call this.
        device: Where it lies.
    """
    head = method.classifier if isinstance(method, LinearProbe) else method.head
    assert isinstance(head, SlimmableLinear | SwitchableLinear)
    return Outcome(head, evaluate(method, loader, device))


def outcome_of_grid(
    method: GridProbe, backbone: SlimmableResNet, loader: Loader, held_out: Loader | None, device: torch.device
) -> Outcome:
    """Of several candidates: held-out training images choose, the validation images only count.

    What is kept is evaluated on its own, with the backbone's module, as `slimclr evaluate` does.

    Args:
        method: After training.
        backbone: The module that its features are of, on the same device.
        loader: Every validation image exactly once over all processes; all processes call this.
        held_out: Held-out images likewise; None where each layer has a single candidate.
        device: Where to compute.

    Raises:
        UserError: All candidates of a layer diverged.
    """
    if held_out is None:
        on_held_out: list[Accuracies | None] = [
            None if lost else {width: {"top1": 0.0} for width in method.widths} for lost in method.diverged()
        ]
    else:
        on_held_out = evaluate_candidates(method, held_out, device)
    layers: dict[str, Outcome] = {}
    for layer in dict.fromkeys(candidate.layer for candidate in method.candidates):
        chosen = choose(method.candidates, on_held_out, layer)
        # The optimiser's own rate and decay come first among a layer's candidates.
        published = next(number for number, one in enumerate(method.candidates) if one.layer == layer)
        head = chosen_head(method, backbone, chosen)
        accuracies = evaluate(OwnClassifier(backbone, head, method.classes), loader, device)
        own: Accuracies | None = accuracies
        if on_held_out[published] is None:
            own = None
        elif set(chosen.values()) != {published}:
            other = chosen_head(method, backbone, dict.fromkeys(method.widths, published))
            own = evaluate(OwnClassifier(backbone, other, method.classes), loader, device)
        candidates = {str(width): method.candidates[index] for width, index in chosen.items()}
        values = {
            "widths": rounded(accuracies),
            "chosen": {width: {"lr": one.lr, "weight_decay": one.weight_decay} for width, one in candidates.items()},
            "published": own and rounded(own),
        }
        layers[layer] = Outcome(head, accuracies, values)
    first = next(iter(layers.values()))
    about: dict[str, Any] = {"layers": {layer: one.values for layer, one in layers.items()}}
    if held_out is not None:
        about["grid"] = [
            {**candidate._asdict(), "held_out": accuracies and rounded(accuracies)}
            for candidate, accuracies in zip(method.candidates, on_held_out, strict=True)
        ]
    return Outcome(first.head, first.accuracies, about)


def rounded(accuracies: Accuracies) -> dict[str, dict[str, float]]:
    """As metrics.json has them."""
    return {str(width): {name: round(value, 4) for name, value in top.items()} for width, top in accuracies.items()}
