"""The whole pipeline: `config/config.yaml`."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from slimclr.config.base import Model, PathName, RunName
from slimclr.config.data import ImageNet, Miniature, Paths
from slimclr.config.detection import Detection
from slimclr.config.export import Export, Latency
from slimclr.places import in_pattern


class Config(Model):
    """The whole pipeline: `config/config.yaml`."""

    paths: Paths = Paths()
    imagenet: ImageNet = ImageNet()
    miniature: Miniature | None = Field(None, description="Null: the archives and COCO are the user's own.")
    cifar10: Annotated[str, Field(min_length=1), AfterValidator(in_pattern)] | None = Field(
        None,
        description="CIFAR-10 in place of ImageNet: `cifar-10-python.tar.gz`, or an archive or folder of "
        "`train/<class>/<image>` and `test/<class>/<image>`, below paths.raw; only read. Null: ImageNet.",
    )
    coco: PathName = Field("coco", description="Folder below paths.raw: annotations/, train2017/, val2017/.")
    recipes: str = Field("config/runs", description="Folder of the recipes; relative: to the repository.")
    references: str = Field("config/references.yaml", description="Published figures; relative: to the repository.")
    runs: tuple[RunName, ...] = Field(min_length=1, description="Runs to make; each is a recipe of that name.")
    detection: Detection = Detection()
    export: Export = Export()
    latency: Latency = Latency()

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Equal to the defaults and not "left out": a resolved config, which has every key, is read again.
        if self.cifar10 and (self.miniature or self.imagenet != ImageNet()):
            other = "miniature" if self.miniature else "imagenet"
            raise ValueError(f"cifar10 {self.cifar10!r} takes ImageNet's place, but there is also {other}; keep one")
        return self
