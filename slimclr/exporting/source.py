"""Where a network is taken from: a run, its folder, or a weights file; with its classifier and what it wants to see."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from slimclr.arch import CIFAR_BLOCKS
from slimclr.data.views.recipes import View, recipes, validation_view
from slimclr.errors import UserError
from slimclr.exporting.extract import Head
from slimclr.files import read_object, sha256
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import load_backbone, read_weights
from slimclr.probe import OwnClassifier
from slimclr.probe.classifier import NAME, load_classifier

WEIGHTS = "weights.safetensors"
HeadKind = Literal["own", "probe", "none"]
# The shorter side before the centre crop, in crops' sides, as on ImageNet.
_RESIZE = 256 / 224


@dataclass(frozen=True)
class Preprocessing:
    """What is done with an image before a network sees it.

    Attributes:
        resize: Length of the shorter side before the centre crop in pixels; None: the image stays as it is.
        crop: Side of the centre crop in pixels; without `resize` the side of the images.
        mean: Subtracted from red, green and blue, values from 0 to 1.
        std: What they are divided by then.
        interpolation: How it is resized.
    """

    resize: int | None
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear, antialiased (Pillow)"

    @classmethod
    def of(cls, views: str, *, resize: int, image_size: int) -> "Preprocessing":
        """As in validation; `views` as in recipes, where CIFAR's neither resize nor crop."""
        view = validation_view(views if views in recipes().validation else "val", resize=resize, image_size=image_size)
        return cls(view.resize if view.crop == "centre" else None, image_size, view.mean, view.std)

    @property
    def view(self) -> View:
        """The same as a recipe of `data.views`."""
        crop: Literal["centre", "none"] = "none" if self.resize is None else "centre"
        return View(crop=crop, resize=self.resize or self.crop, size=self.crop, mean=self.mean, std=self.std)

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std), "channels": "RGB, values from 0 to 1"}


@dataclass(frozen=True)
class Classifier:
    """A classifier of all widths.

    Attributes:
        head: Its layers.
        classes: Names of its outputs.
        widths: Widths that it was trained at.
        preprocessing: How images were prepared for it, where that is known.
        sha256: Of its file, where it has one of its own.
    """

    head: Head
    classes: tuple[str, ...]
    widths: tuple[float, ...]
    preprocessing: Preprocessing | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """Slimmable weights and what lies around them.

    Attributes:
        weights: The file.
        backbone: Its network, in eval mode.
        tensors: All of the file.
        header: What the file says of itself.
        sha256: Of the file.
    """

    weights: Path
    backbone: SlimmableResNet
    tensors: dict[str, Tensor]
    header: dict[str, Any]
    sha256: str

    @property
    def run(self) -> str:
        """The run's name; the file's where it tells none."""
        return str(self.header.get("run") or self.weights.stem)

    def beside(self, stage: str, name: str) -> Path:
        """`results/<stage>/<run>/<name>`, seen from results/pretrain/<run>/weights.safetensors."""
        folder = self.weights.absolute().parent
        return folder.parent.parent / stage / folder.name / name

    @property
    def metrics(self) -> dict[str, Any] | None:
        """metrics.json beside the weights, where it speaks of them."""
        metrics = read_object(self.weights.parent / "metrics.json")
        return metrics if metrics is not None and metrics.get("weights_sha256") == self.sha256 else None

    @property
    def preprocessing(self) -> Preprocessing:
        """As in validation on a run's own images, as far as files tell; otherwise ImageNet's."""
        known = 32 if self.backbone.depth in CIFAR_BLOCKS else 224
        image_size = int(self.header.get("image_size") or (self.metrics or {}).get("image_size") or known)
        views = str(self.header.get("views", "val"))
        return Preprocessing.of(views, resize=round(image_size * _RESIZE), image_size=image_size)


def open_source(source: str | Path, *, results: Path = Path("results")) -> Source:
    """Read slimmable weights.

    Args:
        source: A weights file, a run's folder, or the name of a run below `results`.
        results: Folder with pretrain/ and probe/.

    Raises:
        UserError: There are none, or they cannot be read.
    """
    weights = find_weights(source, results=results)
    backbone, header = load_backbone(weights)
    return Source(weights, backbone, read_weights(weights)[0], header, sha256(weights))


def find_weights(source: str | Path, *, results: Path) -> Path:
    """The weights file of a run, see `open_source`."""
    path = Path(source)
    places = [path, path / WEIGHTS, results / "pretrain" / path / WEIGHTS]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{source}: no such weights file, no run's folder, and no {places[-1]}; correct the path, or name "
        "the folder of results with --results"
    )


def read_head(source: Source, kind: HeadKind, *, file: Path | None = None) -> Classifier | None:
    """The classifier that is asked for.

    Args:
        source: The weights.
        kind: "own": the one in the weights file; "probe": the linear probe's; "none".
        file: The probe's classifier.safetensors; None: results/probe/<run>/ beside the weights.

    Raises:
        UserError: There is none, or it belongs to other weights.
    """
    if kind == "none":
        return None
    if kind == "own":
        own = OwnClassifier.from_tensors(source.backbone, source.tensors, source.header)
        if own is None:
            raise UserError(
                f"{source.weights}: holds no classifier, which --head own asks for; give --head probe after the probe "
                "stage, or --head none for features"
            )
        assert isinstance(own.head, Head)
        return Classifier(own.head, _own_classes(source.header, own.classes), own.widths)
    path = file or source.beside("probe", NAME)
    if not path.is_file():
        raise UserError(
            f"{path}: no such classifier, which --head probe asks for; run the probe stage of this run, name the file "
            "with --classifier, or give --head none for features"
        )
    head, widths, trained = load_classifier(path)
    if trained.backbone_sha256 != source.sha256:
        raise UserError(
            f"{path}: a classifier of the weights {trained.backbone_sha256[:12]}, not of {source.weights} "
            f"({source.sha256[:12]}); run the probe stage of these weights"
        )
    if widths != source.backbone.widths:
        raise UserError(
            f"{path}: has widths {list(widths)}, {source.weights} {list(source.backbone.widths)}; probe again"
        )
    view = Preprocessing.of(trained.views, resize=trained.resize, image_size=trained.image_size)
    return Classifier(head, trained.classes, widths, view, sha256(path))


def check_classified(source: Source, found: Classifier | None, widths: Sequence[float]) -> None:
    """Refuse widths of a network that its classifier was not trained at.

    Raises:
        UserError: It names the others.
    """
    trained = source.backbone.widths if found is None else found.widths
    for width in widths:
        if width in source.backbone.widths and width not in trained:
            raise UserError(
                f"width {width}: the classifier in {source.weights} was trained at {', '.join(map(str, trained))}; "
                "name one of them, or give --head none for features"
            )


def _own_classes(header: dict[str, Any], count: int) -> tuple[str, ...]:
    """What the header calls the classes; otherwise their numbers."""
    named: Sequence[Any] = header.get("classes") or ()
    return tuple(map(str, named if len(named) == count else range(count)))
