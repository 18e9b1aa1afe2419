"""The configuration: frozen, typed, and refused before any job starts when a key or a combination is wrong.

`config/config.yaml` names the data and the runs; `config/runs/<run>.yaml` is one recipe. This module imports neither
torch nor Snakemake, so that a dry run is quick.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slimclr.arch import CIFAR_BLOCKS, DEPTHS, arch_name, width_channels
from slimclr.errors import UserError

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=Model)

# ------------------------------------------------------------------------------------------------------ the recipe

Backend = Literal["torchvision", "torchvision_tensor", "dali", "dali_gpu"]
LOADER = (
    "torchvision: Pillow's operations, as published; torchvision_tensor: torchvision's on tensors, faster; dali: "
    "DALI's on the CPU, faster still; dali_gpu: DALI's on the GPU, which also decodes."
)


class Backbone(Model):
    """A slimmable ResNet."""

    depth: int = Field(
        50,
        description="Layers: 50, 101, 152, or 14 and 26 for trying out; 20, 32, 44, 56, 110 are CIFAR's networks.",
    )
    base_width: Count = Field(
        64,
        description="Channels of the first convolution at width 1.0; with CIFAR's networks 16 times the width factor.",
    )
    widths: tuple[Positive, ...] = Field(
        (1.0, 0.75, 0.5, 0.25), description="Width multipliers, 1.0 among them; each must give whole channels."
    )
    overlap: bool = Field(
        True,
        description="A sub-network has the first channels; false: sub-networks share no channel with each other, and "
        "their widths add up to 1 at most.",
    )
    zero_init_residual: bool = Field(True, description="The last batch norm of every block starts at 0.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.depth not in DEPTHS:
            raise ValueError(f"depth {self.depth} is not one of {', '.join(map(str, DEPTHS))}")
        for width in self.widths:
            try:
                width_channels(self.base_width, width)
            except ValueError as error:
                raise ValueError(
                    f"widths {list(self.widths)}: {error}; choose multiples of 1/{self.base_width}"
                ) from None
        if len(set(self.widths)) != len(self.widths):
            raise ValueError(f"widths {list(self.widths)} names a width twice")
        if max(self.widths, default=0) != 1.0:
            raise ValueError(f"widths {list(self.widths)} must have 1.0, the full network, as the largest")
        if not self.overlap and sum(self.widths) > 2:
            raise ValueError(f"overlap false: widths {list(self.widths)} below 1.0 add up to more than 1")
        return self

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return arch_name(self.depth, self.base_width)


class MoCoV2(Model):
    """MoCo v2: momentum encoder and a queue of keys."""

    name: Literal["mocov2"]
    dim: Count = Field(128, description="Size of the embedding.")
    queue: Count = Field(65536, description="Keys in the queue; a multiple of the batch.")
    momentum: Share = Field(0.999, description="Momentum of the key encoder.")
    temperature: Positive = Field(0.2, description="Temperature of the contrastive loss.")
    head: Literal["slimmable", "switchable"] = Field(
        "slimmable", description="Sub-networks use a part of the full network's head, or each has its own."
    )
    head_init: Literal["normal", "default"] = Field(
        "normal", description="Head starts at N(0, 0.01), or as PyTorch's layers do."
    )
    bn_splits: Count = Field(
        1, description="Parts of a batch with a batch norm each, keys shuffled: imitates so many GPUs on one."
    )


class MoCoV3(Model):
    """MoCo v3: symmetric, with a predictor, negatives within the batch."""

    name: Literal["mocov3"]
    dim: Count = Field(256, description="Size of the embedding.")
    hidden: Count = Field(4096, description="Hidden layer of projector and predictor at width 1.0.")
    momentum: Share = Field(0.99, description="Momentum of the key encoder at the start; rises to 1 by half a cosine.")
    temperature: Positive = Field(1.0, description="Temperature of the contrastive loss.")


class SimCLR(Model):
    """SimCLR: two views, negatives within the batch."""

    name: Literal["simclr"]
    dim: Count = Field(128, description="Size of the embedding.")
    hidden: Count | None = Field(
        None, description="Hidden layer of the head at width 1.0; null: as many as the backbone has features."
    )
    temperature: Positive = Field(0.1, description="Temperature of the contrastive loss.")
    gradient_scale: Literal["true", "reference"] = Field(
        "true", description="reference: the gradient divided by the number of GPUs, as the reference's gathering does."
    )


class Supervised(Model):
    """Cross-entropy with labels."""

    name: Literal["supervised"]
    classifier: Literal["slimmable", "switchable"] = Field(
        "slimmable", description="Sub-networks use a part of one classifier, or each has its own."
    )


class Random(Model):
    """No training: the initial weights, the baseline of every probe."""

    name: Literal["random"]


Method = Annotated[MoCoV2 | MoCoV3 | SimCLR | Supervised | Random, Field(discriminator="name")]
NEGATIVES_IN_BATCH = ("mocov3", "simclr")


class Optimizer(Model):
    """What moves the weights; weight decay applies to every parameter (LARS: of two or more dimensions)."""

    name: Literal["sgd", "lars"] = Field("sgd", description="sgd or lars.")
    lr: Positive = Field(description="Base learning rate for the total batch; it stays whatever the number of GPUs.")
    momentum: Share = Field(0.9, description="Momentum.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-4, description="Weight decay.")
    trust: Positive = Field(0.001, description="LARS: trust coefficient.")
    grad_clip: Positive | None = Field(None, description="Greatest norm of the whole gradient; null: not clipped.")


class Schedule(Model):
    """Learning rate over the steps."""

    name: Literal["cosine", "step", "polynomial"] = Field(
        "cosine", description="Half a cosine to 1e-8, drops at milestones, or a polynomial to 1e-8."
    )
    warmup: Share = Field(0.0, description="Linear warm-up, share of all steps.")
    slim_start_lr: Positive | None = Field(
        None, description="Base learning rate from slow start on; null keeps the base rate."
    )
    milestones: tuple[Count, ...] = Field((), description="step: epochs after which the rate is multiplied by gamma.")
    gamma: Positive = Field(0.1, description="step: the factor.")
    power: Positive = Field(1.0, description="polynomial: the power; 1 is a straight line.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.name == "step") != bool(self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} go with name: step, and with nothing else")
        return self


class Distillation(Model):
    """What a sub-network learns from the full network."""

    kind: Literal["kl", "mse", "dkd", "atkd"] = Field(
        "kl",
        description="kl: softened cross-entropy; mse: mean squared error; dkd: decoupled; atkd: adaptive temperature.",
    )
    on: Literal["logits", "features"] = Field(
        "logits", description="What is compared; features are the normalised embeddings (kl and mse only)."
    )
    share: Share = Field(
        0.5, description="Share of distillation in a sub-network's loss; 1 with kl is slimmable networks' in-place."
    )
    teacher_temperature: Positive = Field(5.0, description="kl: softens the full network's logits.")
    student_temperature: Positive = Field(5.0, description="kl: softens the sub-network's logits.")
    full_distill: bool = Field(
        False, description="A width learns from every wider one, averaged, instead of the full network alone."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.on == "features" and self.kind not in ("kl", "mse"):
            raise ValueError(f"kind {self.kind} compares logits; on: features goes with kl or mse")
        return self


class KNN(Model):
    """A classifier of nearest neighbours on the frozen features of every width, to watch a training by."""

    every: Count = Field(10, description="Epochs between two evaluations.")
    bank: Count = Field(10_000, description="Training images whose neighbours are counted, drawn by the seed.")
    queries: Count = Field(2_000, description="Other training images that are classified.")
    neighbours: Count = Field(20, description="Neighbours that vote.")
    temperature: Positive = Field(0.07, description="A vote's weight is exp(cosine / temperature).")


VIEWS_PER_WIDTH = ("mocov2_diff", "mocov2_sweet")
# How a section's training runs, not what comes out of it: where these change, nothing is computed again.
OPERATIONAL = (
    "workers",
    "log_every",
    "checkpoint_minutes",
    "keep_every_epochs",
    "compile",
    "activation_checkpointing",
)
LOSS_WEIGHTS = ("equal", "share", "width", "width_mean_1", "sub_sum_to_full", "cumulative", "next_to_full")


class Pretrain(Model):
    """Pre-training of one run."""

    method: Method
    backbone: Backbone = Backbone()
    epochs: Annotated[int, Field(ge=0)] = Field(description="Epochs.")
    slow_start_epoch: Annotated[int, Field(ge=0)] = Field(
        0, description="Widths below 1.0 join at this epoch; 0: from the start."
    )
    batch: Count = Field(1024, description="Total batch over all GPUs.")
    batch_norm: Literal["per_gpu", "synchronised"] = Field("per_gpu", description="Which images a batch norm sees.")
    bn_batch: Count | None = Field(None, description="Images that batch norm sees; needed with per_gpu.")
    max_batch_per_gpu: Count | None = Field(None, description="What fits on a GPU; null: whatever the batch gives.")
    allow_not_comparable: bool = Field(False, description="Run even where accumulation changes the method.")
    optimizer: Optimizer | None = Field(None, description="Needed unless the method is random.")
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="fp16 uses a gradient scaler.")
    distillation: Distillation | None = Field(None, description="Null: sub-networks learn from the loss alone.")
    loss_weights: Literal[
        "equal", "share", "width", "width_mean_1", "sub_sum_to_full", "cumulative", "next_to_full"
    ] = Field("equal", description="Weights of the widths' losses once all train; the paper's is sub_sum_to_full.")
    views: Literal[
        "mocov1",
        "mocov2",
        "mocov2_diff",
        "mocov2_sweet",
        "mocov3",
        "simclr",
        "slim",
        "normal",
        "cifar_moco",
        "cifar_supervised",
    ] = Field(
        "mocov2",
        description="Augmentation recipe of slimclr/data/views.yaml. mocov2_diff: every sub-network has its own view; "
        "mocov2_sweet: also without grey and blur.",
    )
    image_size: Count = Field(224, description="Side of a view in pixels.")
    loader: Backend = Field("torchvision", description=LOADER)
    workers: Annotated[int, Field(ge=0)] = Field(8, description="Loader processes per GPU.")
    log_every: Count = Field(10, description="Steps between two lines of metrics.jsonl.")
    gradients_every: Count | None = Field(
        None,
        description="Steps between gradient records in metrics.jsonl, each one more backward per width; null: none.",
    )
    checkpoint_minutes: Positive = Field(
        15, description="Minutes between checkpoints within an epoch; a killed run loses no more than that."
    )
    keep_every_epochs: Count | None = Field(
        None, description="Checkpoints of every so many epochs stay for good; null: only the newest two are kept."
    )
    knn: KNN | None = Field(None, description="Nearest neighbours of every width while training; null: none.")
    tf32: bool = Field(True, description="GPU: convolutions and matrix products in fp32 may use TF32.")
    compile: bool = Field(False, description="torch.compile, one graph per width; the first steps wait for it.")
    activation_checkpointing: bool = Field(
        False, description="Compute a block's activations again in the backward pass: less memory, more time."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        name, widths = self.method.name, self.backbone.widths
        if name == "random":
            if self.epochs:
                raise ValueError(f"epochs {self.epochs}: a random backbone is not trained, epochs must be 0")
            return self
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs}: must be at least 1")
        if self.optimizer is None:
            raise ValueError("optimizer is missing")
        if self.slow_start_epoch >= self.epochs:
            raise ValueError(f"slow_start_epoch {self.slow_start_epoch} must come before the end, epoch {self.epochs}")
        if (name == "supervised") != (self.views in ("slim", "normal", "cifar_supervised")):
            wanted = "slim or normal" if name == "supervised" else "mocov1, mocov2, mocov3 or simclr"
            raise ValueError(f"views {self.views} does not give the views of method {name}; use {wanted}")
        if self.views in VIEWS_PER_WIDTH and (name != "mocov2" or len(widths) == 1):
            raise ValueError(f"views {self.views} gives sub-networks their own views: only mocov2 with several widths")
        if name == "supervised" and self.distillation is not None and self.distillation.on == "features":
            raise ValueError("distillation.on features needs embeddings; supervised training has logits only")
        if len(widths) == 1:
            for key, off in (("slow_start_epoch", 0), ("distillation", None), ("loss_weights", "equal")):
                if getattr(self, key) != off:
                    raise ValueError(
                        f"{key} {_plain(getattr(self, key))} needs sub-networks, but widths is {list(widths)}"
                    )
            if self.schedule.slim_start_lr is not None:
                raise ValueError(f"schedule.slim_start_lr {self.schedule.slim_start_lr} needs sub-networks")
        if self.schedule.slim_start_lr is not None and not self.slow_start_epoch:
            raise ValueError(f"schedule.slim_start_lr {self.schedule.slim_start_lr} needs slow_start_epoch")
        if self.batch_norm == "per_gpu":
            if self.bn_batch is None:
                raise ValueError("batch_norm per_gpu needs bn_batch, the number of images that batch norm sees")
            if self.batch % self.bn_batch:
                raise ValueError(f"batch {self.batch} is not a multiple of bn_batch {self.bn_batch}")
        elif self.bn_batch is not None:
            raise ValueError(
                f"bn_batch {self.bn_batch} goes with batch_norm per_gpu; synchronised sees the whole batch"
            )
        if isinstance(self.method, MoCoV2) and self.batch % self.method.bn_splits:
            raise ValueError(f"batch {self.batch} does not divide into method.bn_splits {self.method.bn_splits}")
        if isinstance(self.method, MoCoV2) and self.method.queue % self.batch:
            raise ValueError(f"method.queue {self.method.queue} is not a multiple of batch {self.batch}")
        return self


class Probe(Model):
    """Linear probes of all widths in one pass over the frozen backbone."""

    epochs: Annotated[int, Field(ge=0)] = Field(description="Epochs; 0 with a supervised run's own classifier.")
    batch: Count = Field(1024, description="Total batch over all GPUs.")
    optimizer: Optimizer | None = Field(None, description="Needed when there are epochs.")
    schedule: Schedule = Schedule()
    image_size: Count = Field(224, description="Side of a training crop and of the validation crop in pixels.")
    resize: Count = Field(256, description="Validation: the shorter side before the centre crop.")
    views: Literal["normal", "cifar_moco", "cifar_probe", "cifar_supervised"] = Field(
        "normal", description="Augmentation recipe; with CIFAR's, validation neither resizes nor crops."
    )
    loader: Backend = Field("torchvision", description=LOADER)
    workers: Annotated[int, Field(ge=0)] = Field(8, description="Loader processes per GPU.")
    log_every: Count = Field(10, description="Steps between two lines of metrics.jsonl.")
    checkpoint_minutes: Positive = Field(
        15, description="Minutes between checkpoints within an epoch; a killed run loses no more than that."
    )
    tf32: bool = Field(True, description="GPU: convolutions and matrix products in fp32 may use TF32.")


class Recipe(Model):
    """One run: `config/runs/<run>.yaml`."""

    paper: bool = Field(False, description="This is a run of the paper, with the paper's values.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="One run each; more than one gives mean and spread in the report."
    )
    pretrain: Pretrain
    probe: Probe
    transfer: bool = Field(False, description="Fine-tune this run's backbone on COCO.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = self.pretrain.method.name == "supervised"
        if own == bool(self.probe.epochs):
            wanted = "0: a supervised run's probe evaluates its own classifier" if own else "at least 1"
            raise ValueError(f"probe.epochs {self.probe.epochs} must be {wanted}")
        if self.probe.epochs and self.probe.optimizer is None:
            raise ValueError("probe.optimizer is missing")
        if self.transfer and self.pretrain.backbone.depth in CIFAR_BLOCKS:
            raise ValueError(f"transfer true: Mask R-CNN needs four stages, {self.pretrain.backbone.arch} has three")
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} names a seed twice")
        return seeds


# --------------------------------------------------------------------------------------------------- the pipeline


class Paths(Model):
    """Where things lie. Relative paths start at the folder that Snakemake runs in."""

    raw: str = Field("raw", description="The archives and COCO; only read, must exist.")
    work: str = Field(".", description="data/, results/, checkpoints/, logs/ and benchmarks/ are made here.")
    scratch: str | None = Field(
        None,
        description="Folder on each node's own disk, for instance `/scratch/$USER`: pre-training and probes copy the "
        "LMDB there and read the copy, which the jobs of a node share and the last one removes. Variables are those of "
        "the job. Changing it reruns nothing.",
    )


class ImageNet(Model):
    """The three archives below `paths.raw`; they are only read."""

    train: str = Field("ILSVRC2012_img_train.tar", description="Training images, a tar of one tar per class.")
    val: str = Field(
        "ILSVRC2012_img_val.tar",
        description="Validation images, flat; or a folder in which they are sorted already, as `<wnid>/<image>`.",
    )
    devkit: str = Field(
        "ILSVRC2012_devkit_t12.tar.gz",
        description="Development kit: classes of the validation images; or a text file (`*.txt`) of lines `name wnid`. "
        "Not read when val is a folder.",
    )
    expect: Literal["ilsvrc2012", "subset"] = Field(
        "ilsvrc2012", description="ilsvrc2012: exactly 1000 / 1,281,167 / 50,000; subset: what the archives imply."
    )
    keep_folder: bool = Field(
        True, description="Write folders of images, then the LMDB; false: the LMDB straight from the archive."
    )
    check_images: Literal["structure", "decode"] = Field(
        "structure",
        description="An image is corrupt when its header or its end is; decode: or when it does not decode.",
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="Corrupt images stop the stage with a list; skip: they are left out and reported."
    )
    check_md5: bool = Field(False, description="Compare the archives' MD5 with what ImageNet published.")
    recordio_resize: Count | None = Field(
        None,
        description="RecordIO files, which are made on request: larger images are scaled down to this shorter side in "
        "pixels; null: their bytes stay.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.check_md5 and self.expect == "subset":
            raise ValueError("check_md5 true compares with the official archives; it goes with expect: ilsvrc2012")
        return self


class Miniature(Model):
    """Generate small archives and a small COCO into `paths.raw` instead of expecting them there."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the generator.")


class Detection(Model):
    """Mask R-CNN on COCO, the same recipe for every run that transfers."""

    epochs: Count = Field(12, description="Epochs.")
    milestones: tuple[Count, ...] = Field((8, 11), description="Epochs after which the rate is divided by 10.")
    batch: Count = Field(64, description="Total batch over all GPUs.")
    lr: Positive = Field(0.08, description="Learning rate of SGD, for the total batch.")
    momentum: Share = Field(0.9, description="Momentum.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-4, description="Weight decay, on every parameter.")
    grad_clip: Positive = Field(35.0, description="Greatest norm of the gradient summed over widths.")
    warmup_iterations: Annotated[int, Field(ge=0)] = Field(500, description="Steps of linear warm-up.")
    warmup_ratio: Share = Field(0.001, description="Share of the learning rate at the first step.")
    image_scale: tuple[Count, Count] = Field((1333, 800), description="Longest and shortest side to fit, in pixels.")
    flip: Share = Field(0.5, description="Probability of a horizontal flip.")
    workers: Annotated[int, Field(ge=0)] = Field(4, description="Loader processes per GPU.")
    fpn_channels: Count = Field(256, description="Channels of FPN, RPN and mask head.")
    fc_channels: Count = Field(1024, description="Width of the box head.")
    mask_convs: Count = Field(4, description="Convolutions of the mask head.")
    anchor_scale: Count = Field(8, description="Side of a square anchor in strides of its level.")
    proposals: Count = Field(1000, description="Proposals of an image that reach the heads.")
    roi_sampling: Annotated[int, Field(ge=0)] = Field(
        0, description="Points a side and bin that RoIAlign averages; 0: as many as the region has pixels."
    )
    rpn_samples: Count = Field(256, description="Anchors of an image in RPN's loss.")
    roi_samples: Count = Field(512, description="Proposals of an image in the heads' losses.")
    detections: Count = Field(100, description="Most detections of an image.")


class Config(Model):
    """The whole pipeline: `config/config.yaml`."""

    paths: Paths = Paths()
    imagenet: ImageNet = ImageNet()
    miniature: Miniature | None = Field(None, description="Null: the archives and COCO are the user's own.")
    cifar10: str | None = Field(
        None,
        min_length=1,
        description="CIFAR-10 in place of ImageNet: `cifar-10-python.tar.gz`, or an archive or folder of "
        "`train/<class>/<image>` and `test/<class>/<image>`, below paths.raw; only read. Null: ImageNet.",
    )
    coco: str = Field("coco", description="Folder below paths.raw: annotations/, train2017/, val2017/.")
    recipes: str = Field("config/runs", description="Folder of the recipes; relative: to the repository.")
    references: str = Field("config/references.yaml", description="Published figures; relative: to the repository.")
    runs: tuple[RunName, ...] = Field(min_length=1, description="Runs to make; each is a recipe of that name.")
    detection: Detection = Detection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Equal to the defaults and not "left out": a resolved config, which has every key, is read again.
        if self.cifar10 and (self.miniature or self.imagenet != ImageNet()):
            other = "miniature" if self.miniature else "imagenet"
            raise ValueError(f"cifar10 {self.cifar10!r} takes ImageNet's place, but there is also {other}; keep one")
        return self


# --------------------------------------------------------------------------------------------- loading and errors


def load_config(source: Mapping[str, Any] | Path, *, name: str = "config") -> Config:
    """Validate the pipeline's config.

    Args:
        source: The parsed YAML, or its path.
        name: What error messages call it.

    Raises:
        UserError: One line per mistake: the key's path, the value and what is allowed.
    """
    if isinstance(source, Path):
        name, source = str(source), _read_yaml(source)
    config = _validate(Config, source, name)
    for run in config.runs:
        if config.runs.count(run) > 1:
            raise UserError(f"{name}: runs: {run!r} is named twice")
    return config


def load_recipe(source: Mapping[str, Any] | Path, *, name: str = "recipe") -> Recipe:
    """Validate one recipe; arguments and errors as for `load_config`."""
    if isinstance(source, Path):
        name, source = str(source), _read_yaml(source)
    return _validate(Recipe, source, name)


def load_recipes(config: Config, root: Path) -> dict[str, Recipe]:
    """The recipes of a config's runs, by run.

    Args:
        config: The config.
        root: The repository, from which a relative `recipes` folder starts.
    """
    folder = root / config.recipes
    recipes = {}
    for run in config.runs:
        path = folder / f"{run}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in folder.glob("*.yaml"))
            raise UserError(f"runs: {run!r} has no recipe: {path} does not exist{_did_you_mean(run, known)}")
        recipes[run] = load_recipe(path)
        pretrain = recipes[run].pretrain
        if pretrain.method.name == "random" and run != f"random_{pretrain.backbone.arch}":
            raise UserError(
                f"{path}: a random backbone's run is named random_<arch>, here random_{pretrain.backbone.arch}"
            )
    instances = [instance for run, recipe in recipes.items() for instance in seeded_runs(run, recipe)]
    for instance in instances:
        if instances.count(instance) > 1:
            raise UserError(f"runs: two runs would both write results of the name {instance!r}; rename one")
    return recipes


def seeded_runs(run: str, recipe: Recipe) -> dict[str, int]:
    """Folder name -> seed of a run: the first seed keeps the run's name, so that adding seeds reruns nothing."""
    first, *others = recipe.seeds
    return {run: first} | {f"{run}_seed{seed}": seed for seed in others}


def parse_section(model: type[M], text: str, changes: Mapping[str, Any] = MappingProxyType({})) -> M:
    """Read a section of the config from the command line: JSON, or the path of a YAML file.

    Args:
        model: The section.
        text: JSON or path.
        changes: Keys that take the place of those in `text`.

    Raises:
        UserError: Neither, or not valid for `model`.
    """
    name = "command line"
    if text.lstrip().startswith("{"):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"command line: not JSON ({error}); give JSON, or the path of a YAML file") from None
    else:
        name = text
        values = _read_yaml(Path(text))
    return _validate(model, {**values, **changes} if isinstance(values, dict) else values, name)


def dump(model: Model) -> dict[str, Any]:
    """A section with all defaults filled in, as plain JSON values."""
    return model.model_dump(mode="json")


def decisive(model: Model) -> dict[str, Any]:
    """What decides a section's results, as plain JSON values.

    Without `OPERATIONAL`, and without defaults: a key that a later version adds changes no section that lacks it.
    """
    values = model.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in values.items() if key not in OPERATIONAL}


def operational(model: Model) -> dict[str, Any]:
    """The rest of `decisive`: values of `OPERATIONAL` that are no defaults."""
    values = model.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in values.items() if key in OPERATIONAL}


def fingerprint(model: Model) -> str:
    """SHA-256 of what decides a section's results; comments, order and spelled-out defaults do not change it."""
    return hashlib.sha256(json.dumps(decisive(model), sort_keys=True).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON schema of config and recipe, generated from the models."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slimclr",
        "$defs": {},
    }
    for model in (Config, Recipe):
        part = model.model_json_schema(ref_template="#/$defs/{model}")
        schema["$defs"] |= part.pop("$defs", {})
        schema["$defs"][model.__name__] = part
    return schema


def _read_yaml(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: must hold keys and values")
    return value


def _validate(model: type[M], value: Mapping[str, Any], name: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors()
        # A misspelt key is also a missing one; the line about the spelling says it all.
        lines = [_line(model, detail, name) for detail in details]
        told = [line for line, detail in zip(lines, details, strict=True) if detail["type"] == "extra_forbidden"]
        lines = [
            line
            for line, detail in zip(lines, details, strict=True)
            if detail["type"] != "missing"
            or not any(f"did you mean {str(detail['loc'][-1])!r}" in told_ for told_ in told)
        ]
        raise UserError("\n".join(lines)) from None


def _line(model: type[Model], detail: Any, name: str) -> str:
    # A tagged union puts the tag into the path (method.mocov2.dim); the user wrote method.dim.
    tags = {"mocov2", "mocov3", "simclr", "supervised", "random"}
    loc = [part for part in detail["loc"] if part not in tags]
    key = ".".join(map(str, loc))
    where = f"{name}: {key}" if key else name
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_fields(model, detail["loc"][:-1]))
        return f"{where}: unknown key{_did_you_mean(str(loc[-1]), allowed)}; allowed: {', '.join(allowed)}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("value_error", "missing"):
        return f"{where}: {message}"
    return f"{where}: {message}, but it is {_plain(detail['input'])}"


def _fields(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the (nested) model that an error's path points at."""
    members: list[Any] = [model]
    for part in loc:
        below: list[Any] = []
        for member in members:
            if part in member.model_fields:
                below += _models(member.model_fields[part].annotation)
            elif "name" in member.model_fields and member.model_fields["name"].annotation == Literal[part]:
                below.append(member)
        # A part that names no field is a key of a dictionary.
        members = below or members
    return [name for member in members for name in member.model_fields]


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _plain(value: Any) -> str:
    if isinstance(value, Model):
        value = dump(value)
    return json.dumps(value, default=str)
