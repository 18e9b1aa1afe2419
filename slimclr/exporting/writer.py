"""Writes one width in the formats that are asked for, and compares each file with the slimmable network."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slimclr.errors import UserError
from slimclr.exporting import plain
from slimclr.exporting.comparison import TOLERANCE, agreement, difference, labelled, photos_of
from slimclr.exporting.extract import extract, network_arguments
from slimclr.exporting.formats.int8 import write_int8
from slimclr.exporting.formats.mmdet import read_mmdet, write_mmdet
from slimclr.exporting.formats.onnx import run_onnx, write_onnx
from slimclr.exporting.formats.pt2 import run_pt2, write_pt2
from slimclr.exporting.formats.timm import load_timm, write_timm
from slimclr.exporting.source import Classifier, Preprocessing, Source

WEIGHTS, CODE = "model.safetensors", "resnet.py"
_JUDGED = 1000


@dataclass(frozen=True)
class Examples:
    """Images that an export looks at.

    Attributes:
        compared: To compare outputs on (n, 3, h, w).
        data: Examples to calibrate int8 on.
        count: How many of these.
        val: Labelled images for the accuracy of int8.
    """

    compared: Tensor
    data: Path | None = None
    count: int = 300
    val: Path | None = None


class Taken:
    """One width, taken out of a slimmable network.

    Args:
        source: The slimmable weights.
        classifier: Its head; None: features.
        width: The width.
        fold: Fold batch norm into the convolutions.
        recalibrated_on: Images on which its batch norms were measured; 0: it was trained.
    """

    def __init__(
        self, source: Source, classifier: Classifier | None, width: float, *, fold: bool, recalibrated_on: int = 0
    ):
        self.recalibrated_on = recalibrated_on
        self.source, self.classifier, self.width = source, classifier, width
        self.classes = () if classifier is None else classifier.classes
        head = None if classifier is None else classifier.head
        self.network = extract(source.backbone, width, head, fold=fold)
        outputs = self.network.fc.out_features if isinstance(self.network.fc, torch.nn.Linear) else 0
        self.arguments = network_arguments(source.backbone, width, classes=outputs) | {"folded": fold}
        self.folded = self.network if fold else extract(source.backbone, width, head, fold=True)
        self.preprocessing: Preprocessing = (classifier and classifier.preprocessing) or source.preprocessing

    @torch.no_grad()
    def expected(self, images: Tensor) -> Tensor:
        """What the slimmable network gives."""
        features = self.source.backbone(images, self.width)
        return features if self.classifier is None else self.classifier.head(features, self.width)

    @property
    def parameters(self) -> int:
        """Parameters, the classifier's included."""
        return sum(tensor.numel() for tensor in self.network.parameters())

    def multiply_adds(self) -> int:
        """Multiply-adds of one image."""
        return multiply_adds(self.network, self.preprocessing.crop)

    def metadata(self) -> dict[str, Any]:
        """What travels inside a file that has no config.json beside it."""
        return {
            "run": self.source.run,
            "arch": self.source.backbone.arch,
            "width": self.width,
            "preprocessing": self.preprocessing.document(),
            "classes": list(self.classes),
            "weights_sha256": self.source.sha256,
        }


@dataclass(frozen=True)
class Written:
    """One format's files.

    Attributes:
        files: Their names within the folder.
        difference: Greatest difference of outputs to the slimmable network, relative to the greatest output.
        notes: What there is to say, a sentence each.
        quantised: Accuracies of a quantised network.
    """

    files: tuple[str, ...]
    difference: float
    notes: tuple[str, ...] = ()
    quantised: dict[str, Any] | None = None


@torch.no_grad()
def multiply_adds(network: torch.nn.Module, image_size: int) -> int:
    """Multiply-adds of one image of that side."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size))
    return counter.get_total_flops() // 2


def write_format(name: str, taken: Taken, folder: Path, examples: Examples) -> Written:
    """Write one format and compare it.

    Args:
        name: A key of `FORMATS`.
        taken: What is written.
        folder: Where.
        examples: What to compare and calibrate on.

    Raises:
        UserError: The format cannot hold this network, its package or its photos are missing, or its outputs differ.
    """
    written = FORMATS[name](taken, folder, examples)
    if name != "int8" and not written.difference <= TOLERANCE:
        raise UserError(
            f"--format {name}: its outputs differ from the slimmable network's by {written.difference:.1e} of the "
            f"greatest, more than {TOLERANCE:.0e}; nothing was written, please report this"
        )
    return written


def _torchvision(taken: Taken, folder: Path, examples: Examples) -> Written:
    save_file(taken.network.state_dict(), folder / WEIGHTS, {"format": "pt"})
    shutil.copyfile(plain.__file__, folder / CODE)
    with torch.no_grad():
        network = plain.ResNet(**taken.arguments)
        network.load_state_dict(plain.read_safetensors(folder / WEIGHTS))
        outputs = network.eval()(examples.compared)
    return Written((WEIGHTS, CODE), difference(outputs, taken.expected(examples.compared)))


def _timm(taken: Taken, folder: Path, examples: Examples) -> Written:
    notes = write_timm(
        taken.network.state_dict(),
        taken.arguments,
        folder / "timm",
        classes=taken.classes,
        preprocessing=taken.preprocessing,
    )
    model = load_timm(folder / "timm")
    with torch.no_grad():
        outputs = model(examples.compared)
    if notes:
        more = multiply_adds(model, taken.preprocessing.crop)
        notes.append(f"{more:,} multiply-adds instead of {taken.multiply_adds():,}")
    files = ("timm/config.json", "timm/model.safetensors")
    return Written(files, difference(outputs, taken.expected(examples.compared)), tuple(notes))


def _onnx(taken: Taken, folder: Path, examples: Examples) -> Written:
    path = folder / "model.onnx"
    write_onnx(taken.network, path, image_size=taken.preprocessing.crop, metadata=taken.metadata())
    return Written((path.name,), difference(run_onnx(path, examples.compared), taken.expected(examples.compared)))


def _pt2(taken: Taken, folder: Path, examples: Examples) -> Written:
    path = folder / "model.pt2"
    write_pt2(taken.network, path, image_size=taken.preprocessing.crop, metadata=taken.metadata())
    return Written((path.name,), difference(run_pt2(path, examples.compared), taken.expected(examples.compared)))


def _mmdet(taken: Taken, folder: Path, examples: Examples) -> Written:
    write_mmdet(taken.network.state_dict(), taken.arguments, folder / "mmdet", name=taken.source.run)
    with torch.no_grad():
        network = plain.ResNet(**{**taken.arguments, "classes": 0})
        network.load_state_dict(read_mmdet(folder / "mmdet"))
        outputs = network.eval()(examples.compared)
        expected = taken.source.backbone(examples.compared, taken.width)
    return Written(("mmdet/backbone.pth", "mmdet/mask_rcnn.py"), difference(outputs, expected))


def _int8(taken: Taken, folder: Path, examples: Examples) -> Written:
    if examples.data is None:
        raise UserError("--format int8: needs photos to calibrate on; name them with --data, for instance train.lmdb")
    path, full = folder / "model_int8.onnx", folder / "full.onnx"
    write_onnx(taken.folded, full, image_size=taken.preprocessing.crop, metadata=taken.metadata())
    write_int8(full, path, photos_of(examples.data, taken.preprocessing, examples.count))
    full.unlink()
    outputs = run_onnx(path, examples.compared)
    if examples.val is None:
        return Written((path.name,), difference(outputs, taken.expected(examples.compared)))
    judged = agreement(_judged(taken, path, examples.val), data=examples.val.name, classifies=bool(taken.classes))
    return Written((path.name,), difference(outputs, taken.expected(examples.compared)), quantised=asdict(judged))


def _judged(taken: Taken, path: Path, val: Path) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for images, labels in labelled(val, taken.preprocessing, taken.classes, _JUDGED):
        with torch.no_grad():
            yield taken.network(images), run_onnx(path, images), labels


FORMATS: dict[str, Callable[[Taken, Path, Examples], Written]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "onnx": _onnx,
    "int8": _int8,
    "pt2": _pt2,
    "mmdet": _mmdet,
}


def size_of(count: int) -> str:
    """Bytes as kB or MB."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
