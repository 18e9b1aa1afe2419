"""Pre-training of one run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from slimclr.arch import CIFAR_BLOCKS
from slimclr.config.backbone import Backbone
from slimclr.config.base import Count, CountFrom0, Model, PathName, Positive, Workers, plain
from slimclr.config.distillation import Distillation
from slimclr.config.loader import LOADER, Backend
from slimclr.config.method import NEGATIVES_IN_BATCH, Method, MoCoV2
from slimclr.config.optimizer import Optimizer, Schedule
from slimclr.config.validation import Online, Validation


class KNN(Model):
    """A classifier of nearest neighbours on the frozen features of every width, to watch a training by."""

    every: Count = Field(10, description="Epochs between two evaluations.")
    bank: Count = Field(
        10_000,
        description="Training images whose neighbours are counted, drawn by the seed; fewer where the data has fewer.",
    )
    queries: Count = Field(2_000, description="Other training images that are classified.")
    neighbours: Count = Field(20, description="Neighbours that vote.")
    temperature: Positive = Field(0.07, description="A vote's weight is exp(cosine / temperature).")


VIEWS_PER_WIDTH = ("mocov2_diff", "mocov2_sweet")

STARVED = "batch norm would see a single value of each channel, which has no deviation"


class Pretrain(Model):
    """Pre-training of one run."""

    method: Method
    backbone: Backbone = Backbone()
    epochs: CountFrom0 = Field(description="Epochs.")
    slow_start_epoch: CountFrom0 = Field(0, description="Widths below 1.0 join at this epoch; 0: from the start.")
    batch: Count = Field(1024, description="Total batch over all GPUs.")
    batch_norm: Literal["per_gpu", "synchronised"] = Field("per_gpu", description="Which images a batch norm sees.")
    bn_batch: Count | None = Field(None, description="Images that batch norm sees; needed with per_gpu.")
    max_batch_per_gpu: Count | None = Field(None, description="What fits on a GPU; null: whatever the batch gives.")
    allow_not_comparable: bool = Field(False, description="Run even where accumulation changes the method.")
    init: PathName | None = Field(
        None,
        description="Begin with these weights: a run of this config, which is made first, or a file `*.safetensors`; "
        "relative: below paths.raw. Null: drawn by the seed.",
    )
    init_take: Literal["backbone", "head", "state"] = Field(
        "backbone",
        description="What of `init` is taken, all of it or the run is refused; head: backbone and head; state: also "
        "key encoder, queue, predictor and optimiser, which that run kept (`keep_state`).",
    )
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
        description="Augmentation recipe of slimclr/data/views/views.yaml. mocov2_diff: every sub-network has its own "
        "view; mocov2_sweet: also without grey and blur.",
    )
    image_size: Count = Field(224, description="Side of a view in pixels.")
    loader: Backend | Literal["auto"] = Field(
        "auto",
        description="auto: on GPUs torchvision_tensor, where torchvision decodes JPEGs itself, else torchvision. "
        + LOADER,
    )
    workers: Workers = Field(8, description="Loader processes per GPU.")
    log_every: Count = Field(10, description="Steps between two lines of metrics.jsonl.")
    gradients_every: Count | None = Field(
        None,
        description="Steps between gradient records in metrics.jsonl, each one more backward and set of gradients "
        "per width; null: none.",
    )
    checkpoint_minutes: Positive = Field(
        15, description="Minutes between checkpoints within an epoch; a killed run loses no more than that."
    )
    keep_every_epochs: Count | None = Field(
        None, description="Checkpoints of every so many epochs stay for good; null: only the newest two are kept."
    )
    keep_state: bool = Field(
        False,
        description="Also write state.safetensors, with key encoder, queue, predictor and optimiser, for `init_take`.",
    )
    knn: KNN | None = Field(None, description="Nearest neighbours of every width while training; null: none.")
    validation: Validation | None = Field(
        None,
        description="Supervised: top-1 and top-5 on validation images while training; otherwise with `knn`, whose "
        "neighbours then classify them, too, or `online`. Null: none.",
    )
    online: Online | None = Field(
        None, description="Self-supervised: a linear probe that learns beside, evaluated by `validation`; null: none."
    )
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
            if self.init is not None or self.keep_state:
                key = "keep_state true" if self.init is None else f"init {self.init!r}"
                raise ValueError(f"{key}: a random backbone is not trained; leave it out")
            return self
        if self.init is None and self.init_take != "backbone":
            raise ValueError(f"init_take {self.init_take} needs init")
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
                        f"{key} {plain(getattr(self, key))} needs sub-networks, but widths is {list(widths)}"
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
        if isinstance(self.method, MoCoV2) and self.method.queue % self.batch:
            raise ValueError(f"method.queue {self.method.queue} is not a multiple of batch {self.batch}")
        if self.starves_batch_norm(self.bn_batch or self.batch):
            key, images = ("batch", self.batch) if self.bn_batch is None else ("bn_batch", self.bn_batch)
            raise ValueError(f"{key} {images}: {STARVED}; give it two images or more")
        return self

    @property
    def init_is_file(self) -> bool:
        """Whether `init` names a file and no run."""
        return self.init is not None and self.init.endswith(".safetensors")

    @model_validator(mode="after")
    def _can_validate(self) -> Self:
        own = self.method.name in ("supervised", "random")
        if self.online is not None and (own or self.validation is None):
            raise ValueError("online needs a self-supervised method and validation, which evaluates it")
        if self.validation is not None and self.method.name != "supervised" and not (self.knn or self.online):
            raise ValueError(f"validation: {self.method.name} has no classifier to validate; set knn or online as well")
        return self

    def starves_batch_norm(self, images: int) -> bool:
        """Whether batch norm gets a single value of a channel, which has no deviation, from so many images."""
        # The heads' batch norms see one value of an image, the backbone's last ones its last map.
        stride = 4 if self.backbone.depth in CIFAR_BLOCKS else 32
        return images == 1 and (self.method.name in NEGATIVES_IN_BATCH or self.image_size <= stride)
