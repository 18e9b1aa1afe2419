"""Augmentation recipes: `views.yaml` holds a list of views for each."""

from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from slimclr.config import Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Weights of red, green and blue in what counts as brightness (ITU-R 601, as in PIL).
GREY = (0.299, 0.587, 0.114)

SOLARISE_FROM = 128

Share = tuple[float, float]

Triple = tuple[float, float, float]


class View(Model):
    """One view of a photo."""

    crop: Literal["resized", "padded", "centre", "none"] = Field(
        "resized",
        description="resized: a random box, resized; padded: a random box of the view's size, not resized; centre: of "
        "the resized image, as in validation; none: the image as it is.",
    )
    size: int = Field(224, ge=1, description="Side of the view in pixels.")
    resize: int = Field(256, ge=1, description="Length of the shorter side before a centre crop.")
    crop_scale: Share = Field((1.0, 1.0), description="Share of the image's area that a resized crop takes.")
    padding: int = Field(0, description="Pixels by which a padded crop's box may reach over the image, into black.")
    jitter: tuple[float, float, float, float] | None = Field(
        None, description="Strength of brightness, contrast, saturation, and hue in turns of the colour circle."
    )
    jitter_p: float = Field(0.0, ge=0, le=1, description="Probability of colour jitter.")
    jitter_after_grey: bool = Field(False, description="MoCo v1 jitters what may have lost its colour.")
    grey_p: float = Field(0.0, ge=0, le=1, description="Probability of losing colour.")
    blur_p: float = Field(0.0, ge=0, le=1, description="Probability of Gaussian blur of deviation 0.1 to 2 pixels.")
    solarise_p: float = Field(0.0, ge=0, le=1, description="Probability of inverting all values of 128 and above.")
    flip_p: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip.")
    lighting: float = Field(0.0, ge=0, description="Deviation of AlexNet's PCA lighting.")
    lighting_scale: Literal["unit", "byte"] = Field("unit", description="Lighting is for values to 1, or to 255.")
    mean: Triple = MEAN
    std: Triple = STD


class Recipe(Model):
    """The views of an image in training."""

    views: tuple[View, ...]
    sub_networks: View | None = Field(None, description="What each sub-network gets besides, where it has its own.")


class Recipes(Model):
    """The content of `views.yaml`."""

    training: dict[str, Recipe]
    validation: dict[str, View]


@cache
def recipes() -> Recipes:
    """All recipes by name."""
    import yaml

    text = resources.files("slimclr.data.views").joinpath("views.yaml").read_text(encoding="utf-8")
    return Recipes.model_validate(yaml.safe_load(text))


def training_views(recipe: str, *, image_size: int, widths: int = 1) -> tuple[View, ...]:
    """The views of one image in training.

    Args:
        recipe: A name under `training` in `views.yaml`.
        image_size: Side of a view in pixels.
        widths: Number of widths; where sub-networks have views of their own, theirs follow the recipe's.

    Raises:
        ValueError: Unknown recipe.
    """
    known = recipes().training
    if recipe not in known:
        raise ValueError(f"views {recipe!r} is not one of {', '.join(known)}")
    own = known[recipe].sub_networks
    views = known[recipe].views + ((own,) * (widths - 1) if own is not None else ())
    return tuple(view.model_copy(update={"size": image_size}) for view in views)


def validation_view(recipe: str = "val", *, resize: int, image_size: int) -> View:
    """The one view of an image in validation.

    Args:
        recipe: A name under `validation` in `views.yaml`; where it does not crop, the lengths are not used.
        resize: Length of the shorter side before the centre crop.
        image_size: Side of the crop.
    """
    return recipes().validation[recipe].model_copy(update={"resize": resize, "size": image_size})
