"""The model card, README.md of a folder as the Hugging Face hub shows it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimclr.errors import UserError, printable
from slimclr.exporting.source import Source
from slimclr.exporting.writer import Taken, Written, size_of
from slimclr.files import read_object
from slimclr.statistics import wilson_interval

_METHODS = {
    "mocov2": "MoCo v2",
    "mocov3": "MoCo v3",
    "simclr": "SimCLR",
    "supervised": "supervised training",
    "random": "no training at all: random weights",
}

_LIMITS = """\
- Its accuracy is known for the images named above alone; other photos, cameras or croppings need their own measurement.
- ImageNet's photos and classes have known biases (people, places, what counts as a class), and its terms allow
  research that is not commercial; whoever uses weights trained on them otherwise has to settle that.
- A narrow width gives up accuracy for speed: compare the rows of the table.
- Only the preprocessing in `config.json` gives the accuracy above."""


@dataclass(frozen=True)
class Accuracy:
    """What is known of a run's accuracy.

    Attributes:
        stage: probe, or evaluate.
        widths: Width -> top1, top5 in percent, and `top1_interval`.
        images: A sentence on which images.
    """

    stage: str
    widths: dict[str, dict[str, Any]]
    images: str


def read_accuracy(source: Source, file: Path | None) -> Accuracy:
    """Accuracies of all widths, of the probe stage or of `slimclr evaluate`.

    Args:
        source: The weights.
        file: metrics.json; None: results/probe/<run>/metrics.json beside the weights.

    Raises:
        UserError: There are none, or they speak of other weights.
    """
    path = file or source.beside("probe", "metrics.json")
    metrics = read_object(path)
    mend = "run the probe stage or slimclr evaluate and name its file with --metrics, or give --no-card"
    if metrics is None:
        raise UserError(f"{path}: no such metrics, which the model card needs; {mend}")
    if metrics.get("weights_sha256") != source.sha256:
        raise UserError(f"{path}: not the metrics of {source.weights}; {mend}")
    widths = metrics.get("widths")
    if not isinstance(widths, dict) or not all(
        isinstance(value, dict) and isinstance(value.get("top1"), int | float) for value in widths.values()
    ):
        raise UserError(f"{path}: has no top1 of every width; {mend}")
    count = metrics.get("images")
    images = "The images of validation" + (f", {count:,} of them" if isinstance(count, int) else "")
    digests: Mapping[str, Any] = metrics.get("data_sha256") or {}
    known = digests.get("val_images") or digests.get("images")
    if known:
        images += f" (SHA-256 of the data set `{str(known)[:16]}`)"
    for value in widths.values():
        if "top1_interval" not in value and isinstance(count, int) and count > 0:
            value["top1_interval"] = wilson_interval(value["top1"] / 100 * count, count)
    return Accuracy(str(metrics.get("stage")), widths, images)


def model_card(
    taken: Taken, written: Mapping[str, Written], sizes: Mapping[str, int], accuracy: Accuracy, *, licence: str
) -> str:
    """The card's text.

    Args:
        taken: What was exported.
        written: What each format wrote.
        sizes: Bytes of every file.
        accuracy: Of all widths.
        licence: As the hub names licences.
    """
    source = taken.source
    arch, width = source.backbone.arch, taken.width
    task = "image-classification" if taken.classes else "image-feature-extraction"
    what = (
        f"a classifier of {len(taken.classes):,} classes"
        if taken.classes
        else f"a backbone that gives {taken.network.out_features:,} features"
    )
    head = f"---\nlicense: {licence}\npipeline_tag: {task}\ntags: [slimclr, resnet, self-supervised]\n---\n"
    parts = [
        f"{head}\n# {_plain(source.run)}, width {width}\n",
        f"{what[0].upper()}{what[1:]}: a plain {arch} with {width} of its channels in every layer, taken out of "
        f"a slimmable network (SlimCLR, arXiv 2209.15525). {taken.parameters:,} parameters, "
        f"{taken.multiply_adds():,} multiply-adds at {taken.preprocessing.crop} px.{_recalibrated(taken)}\n",
        "## Use\n\n" + _use(written),
        "## Training\n\n" + _training(source),
        "## Accuracy\n\n" + _accuracies(taken, accuracy),
        *_quantised(written),
        "## Files\n\n" + _files(written, sizes),
        "## Limits\n\n" + _LIMITS + "\n",
    ]
    return "\n".join(parts)


def _recalibrated(taken: Taken) -> str:
    if not taken.recalibrated_on:
        return ""
    return f" This width was never trained: its batch norms were measured on {taken.recalibrated_on:,} training images."


def _use(written: Mapping[str, Written]) -> str:
    text = (
        '```python\nfrom resnet import load  # the file beside this one; it needs torch alone\nnetwork = load(".")\n'
        "outputs = network(images)  # (n, 3, h, w), prepared as `preprocessing` in config.json says\n```\n"
    )
    if "timm" in written:
        text += '\nWith timm: `timm.create_model("local-dir:timm", pretrained=True)`.\n'
    return text


def _training(source: Source) -> str:
    metrics = source.metrics or {}
    method = str(source.header.get("method", ""))
    text = _METHODS.get(method, _plain(method) or "Unknown method")
    text += f", widths {', '.join(map(str, source.backbone.widths))} in one set of weights"
    epochs = metrics.get("epochs")
    text += f", {epochs} epochs" if epochs else ""
    reasons: Sequence[Any] = metrics.get("comparable_because") or ()
    text += f". Weights SHA-256 `{source.sha256}`."
    recipe = source.header.get("recipe_sha256")
    text += f" Recipe SHA-256 `{recipe}`." if recipe else ""
    if origin := source.header.get("source"):
        text += f" Imported from `{_plain(str(origin))}`."
    if reasons:
        text += f" Not a run of the paper: {_plain('; '.join(map(str, reasons)))}."
    return text + "\n"


def _accuracies(taken: Taken, accuracy: Accuracy) -> str:
    kind = "Linear probe of the features" if accuracy.stage == "probe" else "The classifier"
    lines = [
        f"{kind}, percent right; intervals of 95 % (Wilson). {accuracy.images}.\n",
        "| width | top-1 | interval | top-5 |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for width, values in sorted(accuracy.widths.items(), key=lambda item: -float(item[0])):
        ends = values.get("top1_interval")
        interval = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "unknown: the metrics do not count images"
        top5 = f"{values['top5']:.2f}" if isinstance(values.get("top5"), int | float) else ""
        here = " (this one)" if float(width) == taken.width else ""
        lines.append(f"| {width}{here} | {values['top1']:.2f} | {interval} | {top5} |")
    return "\n".join(lines) + "\n"


def _quantised(written: Mapping[str, Written]) -> list[str]:
    judged = written["int8"].quantised if "int8" in written else None
    if judged is None:
        return []
    text = f"On {judged['images']:,} images of {_plain(judged['data'])}"
    if judged["same"] is not None:
        text += f" its first class is that of fp32 for {judged['same']:.2f} %"
    if judged["before"] is not None:
        text += f"; top-1 {judged['before']:.2f} % in fp32, {judged['after']:.2f} % in int8"
    return [f"## int8\n\n{text}.\n"] if judged["same"] is not None else []


def _files(written: Mapping[str, Written], sizes: Mapping[str, int]) -> str:
    lines = ["| file | format | size | difference to the slimmable network |", "| --- | --- | ---: | ---: |"]
    for name, about in written.items():
        lines += [f"| `{file}` | {name} | {size_of(sizes[file])} | {about.difference:.1e} |" for file in about.files]
    notes = [f"- {name}: {note}" for name, about in written.items() for note in about.notes]
    return "\n".join(lines + (["", *notes] if notes else [])) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown and YAML show as it is."""
    return re.sub(r"([\\`*\[\]|~$<>&#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))
