"""Where things lie, and the archives."""

from typing import Literal, Self

from pydantic import Field, model_validator

from slimclr.config.base import Count, Model, PathName, Seed


class Paths(Model):
    """Where things lie. Relative paths start at the folder that Snakemake runs in."""

    raw: PathName = Field("raw", description="The archives and COCO; only read, must exist.")
    work: PathName = Field(".", description="data/, results/, checkpoints/, logs/ and benchmarks/ are made here.")
    scratch: str | None = Field(
        None,
        pattern=r"^[^\x00-\x1f]*$",
        description="Folder on each node's own disk, for instance `/scratch/$USER`: pre-training and probes copy the "
        "LMDB there and read the copy, which the jobs of a node share and the last one removes. Variables are those of "
        "the job. Changing it reruns nothing.",
    )


class LMDBResize(Model):
    """Smaller training images for fewer cores: an option of ours, not the paper's."""

    shorter_side: Count = Field(400, description="Larger images are scaled down to it, in pixels; bicubic.")
    quality: int = Field(90, ge=1, le=95, description="Of the new JPEGs.")


class ImageNet(Model):
    """Archives or folders below `paths.raw`; only read. Hidden entries (`._*`, `.DS_Store`) are passed over."""

    train: PathName = Field(
        "ILSVRC2012_img_train.tar",
        description="Training images: a tar of one tar per class; or a folder, tar or zip of `<wnid>/<image>`; or "
        "Kaggle's `imagenet-object-localization-challenge.zip`, or the folder that it unpacks to.",
    )
    val: PathName = Field(
        "ILSVRC2012_img_val.tar",
        description="Validation images: a flat tar or folder; or a folder in which they are sorted already, as "
        "`<wnid>/<image>`; or Kaggle's zip or folder.",
    )
    devkit: PathName = Field(
        "ILSVRC2012_devkit_t12.tar.gz",
        description="Development kit: classes of the validation images; or a text file (`*.txt`) of lines `name wnid`; "
        "or Kaggle's `LOC_val_solution.csv`, or the zip or folder that holds it. Not read when val is sorted already.",
    )
    expect: Literal["ilsvrc2012", "subset"] = Field(
        "ilsvrc2012", description="ilsvrc2012: exactly 1000 / 1,281,167 / 50,000; subset: what the archives imply."
    )
    keep_folder: bool = Field(
        True, description="Write folders of images, then the LMDB; false: the LMDB straight from the archive."
    )
    check_images: Literal["structure", "decode"] = Field(
        "structure",
        description="An image is corrupt when its header, a JPEG's markers or its end are; decode: or when it does not "
        "decode, which takes about twenty times as long.",
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="Corrupt images stop the stage with a list; skip: they are left out and reported."
    )
    check_md5: bool = Field(False, description="Compare the archives' MD5 with what ImageNet published.")
    lmdb_resize: LMDBResize | None = Field(
        None,
        description="Training images are scaled down while the LMDB is written; runs on them are reported as not "
        "comparable. Needs `keep_folder: true`. Null: their bytes stay.",
    )
    recordio_resize: Count | None = Field(
        None,
        description="RecordIO files, which are made on request: larger images are scaled down to this shorter side in "
        "pixels; null: their bytes stay.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.check_md5 and self.expect == "subset":
            raise ValueError("check_md5 true compares with the official archives; it goes with expect: ilsvrc2012")
        if self.lmdb_resize is not None and not self.keep_folder:
            raise ValueError("lmdb_resize is done from the folders of images; set keep_folder: true")
        return self


class Miniature(Model):
    """Generate small archives and a small COCO into `paths.raw` instead of expecting them there."""

    seed: Seed = Field(0, description="Seed of the generator.")
