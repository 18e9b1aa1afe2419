"""What leaves the pipeline: exported widths, and how fast they are."""

from typing import Literal

from pydantic import Field

from slimclr.config.base import Count, CountFrom0, Model


class Export(Model):
    """Target `export`: every width of every run as a folder to publish, below results/export/<run>/<width>/."""

    formats: tuple[Literal["torchvision", "timm", "onnx", "int8", "pt2", "mmdet"], ...] = Field(
        ("torchvision",), description="Besides plain weights; timm, onnx and int8 need packages of that name."
    )
    head: bool = Field(True, description="With the run's classifier: its probe's, or a supervised run's own.")
    fold: bool = Field(False, description="Fold batch norm into the convolutions.")
    calibrate: Count = Field(300, description="Training images that calibrate int8.")
    licence: str = Field(
        "unknown", pattern=r"^[^\x00-\x1f]*$", description="Of the weights, as the Hugging Face hub names licences."
    )


class Latency(Model):
    """Target `latency`: how fast each width of every run is where it runs, in results/latency/<run>/metrics.json."""

    report: bool = Field(False, description="The report waits for it, and shows it as a column and a plot.")
    batches: tuple[Count, ...] = Field(
        (1, 16), min_length=1, description="Images of a pass; the report shows the first."
    )
    engines: tuple[Literal["eager", "compiled", "onnxruntime"], ...] = Field(
        ("eager",), min_length=1, description="The report shows the first; onnxruntime needs a package of that name."
    )
    precisions: tuple[Literal["fp32", "bf16", "fp16"], ...] = Field(
        ("fp32",), min_length=1, description="The report shows the first."
    )
    threads: CountFrom0 = Field(0, description="Threads on the CPU; 0: torch's choice.")
    repeats: Count = Field(20, description="Samples, of which the median counts.")
