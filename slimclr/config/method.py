"""The training methods of a recipe."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from slimclr.config.base import Count, Model, Momentum, Positive


class MoCoV2(Model):
    """MoCo v2: momentum encoder and a queue of keys."""

    name: Literal["mocov2"]
    dim: Count = Field(128, description="Size of the embedding.")
    queue: Count = Field(65536, description="Keys in the queue; a multiple of the batch.")
    momentum: Momentum = Field(0.999, description="Momentum of the key encoder.")
    temperature: Positive = Field(0.2, description="Temperature of the contrastive loss.")
    head: Literal["slimmable", "switchable"] = Field(
        "slimmable", description="Sub-networks use a part of the full network's head, or each has its own."
    )
    head_init: Literal["normal", "default"] = Field(
        "normal", description="Head starts at N(0, 0.01), or as PyTorch's layers do."
    )


class MoCoV3(Model):
    """MoCo v3: symmetric, with a predictor, negatives within the batch."""

    name: Literal["mocov3"]
    dim: Count = Field(256, description="Size of the embedding.")
    hidden: Count = Field(4096, description="Hidden layer of projector and predictor at width 1.0.")
    momentum: Momentum = Field(
        0.99, description="Momentum of the key encoder at the start; rises to 1 by half a cosine."
    )
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

METHOD_NAMES = {get_args(method.model_fields["name"].annotation)[0] for method in get_args(get_args(Method)[0])}

NEGATIVES_IN_BATCH = ("mocov3", "simclr")
