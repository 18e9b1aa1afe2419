"""What sub-networks learn from wider ones."""

from typing import Literal, Self

from pydantic import Field, model_validator

from slimclr.config.base import Model, Positive, Share


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
