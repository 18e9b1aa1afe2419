"""What `import slimclr` gives: networks for other programs. docs/library.md says what of it is promised."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from slimclr.errors import UserError
from slimclr.exporting.networks import is_exported, open_networks
from slimclr.exporting.source import HeadKind, open_source

__all__ = ["load"]


def load(
    weights_or_run: str | Path,
    *,
    width: float | None = None,
    head: HeadKind = "none",
    results: str | Path = "results",
    classifier: str | Path | None = None,
) -> nn.Module:
    """A network in eval mode, on the CPU.

    Args:
        weights_or_run: A weights file, a run's folder, the name of a run below `results`, or an exported folder.
        width: One width as a plain network, which is called as `network(images)` with normalised images
            (n, 3, h, w). None: the whole `SlimmableResNet`, called as `network(images, width)`; of an exported
            folder its one width.
        head: "none": features (n, features); "own": logits of the classifier in the weights file; "probe": logits of
            the linear probe, from results/probe/<run>/classifier.safetensors.
        results: Folder with pretrain/ and probe/.
        classifier: Another place of the probe's classifier.safetensors.

    Raises:
        UserError: No such weights, width or classifier; a `ValueError` whose text says how to mend it.
    """
    file = None if classifier is None else Path(classifier)
    exported = is_exported(weights_or_run)
    if width is None and not exported:
        if head != "none":
            raise UserError(f"{weights_or_run}: head {head!r} belongs to one width; say which with width=")
        return open_source(weights_or_run, results=Path(results)).backbone
    widths: Sequence[float] | None = None if width is None else (float(width),)
    networks = open_networks(weights_or_run, widths=widths, head=head, results=Path(results), classifier=file)
    return next(iter(networks.by_width.values()))
