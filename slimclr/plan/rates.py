"""How fast a machine is, and how large a data set: stated in a YAML file, recorded by earlier jobs, or measured."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from slimclr.config import Model, Positive, parse_section
from slimclr.files import write_text

NotNegative = Annotated[float, Field(ge=0)]
Images = Annotated[int, Field(ge=1)] | None


class Rate(Model):
    """What a job takes. Images are those of one process; one process per GPU, or one without a GPU."""

    seconds: Positive | None = Field(None, description="From its begin to its end; then nothing else is looked at.")
    start_s: NotNegative = Field(0.0, description="Seconds beside its work: imports, building, writing results.")
    epoch_s: NotNegative = Field(0.0, description="Seconds of an epoch beside its steps.")
    images_per_s: Positive | None = Field(None, description="Images per second, loading included; all widths train.")
    full_width_images_per_s: Positive | None = Field(None, description="The same before slow start; null: as above.")
    evaluation_images_per_s: Positive | None = Field(None, description="Validation images, all widths of each.")
    cores: Positive | None = Field(None, description="Cores that a process keeps busy; null: its threads.")
    memory_gb: Positive | None = Field(None, description="Memory of a process in GB, loader processes included.")
    gpu_memory_gb: Positive | None = Field(None, description="Memory of the GPU in GB.")
    checkpoint_gb: Positive | None = Field(None, description="Size of one checkpoint in GB.")


class DataSet(Model):
    """How much there is to do; what is left out follows from the config where it can."""

    train_images: Images = Field(None, description="Training images.")
    val_images: Images = Field(None, description="Validation images.")
    train_mb: Positive | None = Field(None, description="Their encoded bytes in MB (10^6).")
    val_mb: Positive | None = Field(None, description="The validation images' bytes in MB.")
    coco_train_images: Images = Field(None, description="COCO's training images.")
    coco_val_images: Images = Field(None, description="COCO's validation images.")


class Rates(Model):
    """A rates file."""

    machine: str | None = Field(None, description="Where this was measured; only shown.")
    jobs: dict[str, Rate] = Field({}, description="By rule and run, as `probe slimclr_mocov2_200ep`, or by rule alone.")
    data_set: DataSet = DataSet()


def read_rates(path: Path) -> Rates:
    """Read a rates file; what is wrong with it is one line each."""
    return parse_section(Rates, str(path.absolute()))


def write_rates(rates: Rates, path: Path) -> None:
    """Write what `read_rates` reads, without the keys that say nothing."""
    values = rates.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def merge(first: Rates, second: Rates) -> Rates:
    """Everything that `first` says, and what `second` says where it says nothing."""
    # What is stated of a rule holds for all of its jobs.
    others = {name: rate for name, rate in second.jobs.items() if name.partition(" ")[0] not in first.jobs}
    known = first.data_set.model_dump(exclude_none=True)
    return Rates(
        machine=first.machine or second.machine,
        jobs=others | first.jobs,
        data_set=second.data_set.model_copy(update=known),
    )
