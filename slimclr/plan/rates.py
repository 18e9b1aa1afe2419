"""How fast a machine is, and how large a data set: measured by `slimclr plan`, or stated in a YAML file."""

import json
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from slimclr.config import Model, Positive, parse_section
from slimclr.errors import UserError
from slimclr.files import write_text

NotNegative = Annotated[float, Field(ge=0)]
DEFAULT = "default"


class Process(Model):
    """What one process of a training keeps busy; one process per GPU, or one without a GPU."""

    cores: Positive = Field(1.0, description="Processor cores, loader processes included.")
    memory_gb: Positive | None = Field(None, description="Memory in GB, loader processes included.")
    gpu_memory_gb: Positive | None = Field(None, description="Memory of the GPU in GB.")


class PretrainRate(Process):
    """Pre-training, loading included."""

    images_per_s: Positive = Field(description="Images per second and GPU while all widths train.")
    full_width_images_per_s: Positive | None = Field(
        None, description="The same before slow start, while only width 1.0 trains; null: the same number."
    )
    epoch_s: NotNegative = Field(0.0, description="Seconds of an epoch beside its steps.")


class ProbeRate(Process):
    """Linear probes of all widths, loading included."""

    images_per_s: Positive = Field(description="Training images per second and GPU.")
    evaluation_images_per_s: Positive = Field(description="Validation images per second and GPU, all widths of each.")
    epoch_s: NotNegative = Field(0.0, description="Seconds of an epoch beside its steps.")


class TransferRate(Process):
    """Mask R-CNN with all widths."""

    iterations_per_s: Positive = Field(description="Steps of the total batch per second, at the job's GPUs.")
    evaluation_images_per_s: Positive = Field(description="Validation images per second and GPU, all widths of each.")
    checkpoint_gb: Positive | None = Field(None, description="Size of one checkpoint in GB.")


class DataRate(Model):
    """Jobs on the processor, MB (10^6 bytes) of encoded images per second."""

    miniature_photos_per_s: Positive | None = Field(None, description="Photos that the miniature's generator draws.")
    extract_mb_per_s: Positive | None = Field(None, description="Archive to folder, or straight to LMDB.")
    convert_mb_per_s: Positive | None = Field(None, description="Folder to LMDB.")
    cifar_mb_per_s: Positive | None = Field(None, description="CIFAR-10's archive to its LMDBs.")
    recordio_mb_per_s: Positive | None = Field(None, description="LMDB to RecordIO.")
    recordio_share: Positive | None = Field(None, description="Bytes of RecordIO per byte of images.")
    memory_gb: Positive | None = Field(None, description="Memory of the greediest of these jobs in GB.")


class DataSet(Model):
    """How much there is to do; what is left out follows from the config where it can."""

    train_images: Annotated[int, Field(ge=1)] | None = Field(None, description="Training images.")
    val_images: Annotated[int, Field(ge=1)] | None = Field(None, description="Validation images.")
    train_mb: Positive | None = Field(None, description="Their encoded bytes in MB (10^6).")
    val_mb: Positive | None = Field(None, description="The validation images' bytes in MB.")
    lmdb_bytes_per_image: NotNegative = Field(
        2200.0, description="Bytes that an LMDB takes beside an image's own: half a page of 4096, and its entries."
    )
    coco_train_images: Annotated[int, Field(ge=1)] | None = Field(None, description="COCO's training images.")
    coco_val_images: Annotated[int, Field(ge=1)] | None = Field(None, description="COCO's validation images.")


class Rates(Model):
    """A rates file. Keys of pretrain, probe and transfer are runs, or `default`."""

    machine: str | None = Field(None, description="Where this was measured; only shown.")
    start_s: dict[str, NotNegative] = Field(
        {}, description="By rule: seconds of a job beside its work: imports, building the network, writing results."
    )
    pretrain: dict[str, PretrainRate] = Field({}, description="Pre-training, by run.")
    probe: dict[str, ProbeRate] = Field({}, description="Probes, by run.")
    transfer: dict[str, TransferRate] = Field({}, description="COCO, by run.")
    data: DataRate = DataRate()
    data_set: DataSet = DataSet()


def read_rates(path: Path) -> Rates:
    """Read a rates file.

    Raises:
        UserError: It is missing, not YAML, has an unknown key or a value that is none: one line each.
    """
    if path.is_file():
        _check_runs(path)
    return parse_section(Rates, str(path.absolute()))


def _check_runs(path: Path) -> None:
    """Look at the runs' entries one by one, so that a misspelt key is told with those that are allowed."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return
    for name, model in (("pretrain", PretrainRate), ("probe", ProbeRate), ("transfer", TransferRate)):
        table = document.get(name) if isinstance(document, dict) else None
        for run, entry in table.items() if isinstance(table, dict) else ():
            if isinstance(entry, dict):
                try:
                    parse_section(model, json.dumps(entry))
                except UserError as error:
                    raise UserError(str(error).replace("command line: ", f"{path}: {name}.{run}.")) from None


def write_rates(rates: Rates, path: Path) -> None:
    """Write what `read_rates` reads, without the keys that say nothing."""
    values = rates.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def merge(stated: Rates, measured: Rates) -> Rates:
    """Everything that is stated, and what was measured where nothing is."""
    values = {}
    for name in Rates.model_fields:
        first, second = getattr(stated, name), getattr(measured, name)
        if isinstance(first, Model):
            own = first.model_dump(exclude_unset=True, exclude_none=True)
            values[name] = second.model_copy(update=own)
        elif isinstance(first, dict):
            # A stated default holds for the runs that the file does not name, too.
            values[name] = first if DEFAULT in first else {**second, **first}
        else:
            values[name] = first or second
    return Rates(**values)
