"""Features of photos, of one or several widths in one pass."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from slimclr.errors import UserError
from slimclr.exporting.networks import Networks, open_networks
from slimclr.exporting.passes import USUAL, Running, passes
from slimclr.exporting.plain import ResNet
from slimclr.exporting.tables import check_table, open_table


def features(
    source: str | Path,
    photos: Path,
    *,
    out: Path,
    widths: Sequence[float] | None = None,
    layer: str | None = None,
    maps: bool = False,
    results: Path = Path("results"),
    running: Running = USUAL,
) -> None:
    """Write the features of every photo that can be read, in order.

    Args:
        source: A run, weights or an exported folder, see `open_networks`.
        photos: A file, a folder, a list or a data set, see `open_photos`.
        out: A `.csv`, `.parquet`, `.npy` or `.safetensors`, see `open_table`.
        widths: Which; None: all there are.
        layer: `layer1` to `layer4`: the outputs of this stage, averaged over positions; None: the last one's.
        maps: The whole map of the stage (n, channels, h, w) instead of its average.
        results: Folder with pretrain/, where a run's name is looked for.
        running: Batches, workers, device, what happens to photos that cannot be read.

    Raises:
        UserError: No such weights, width, stage or photos.
    """
    networks = open_networks(source, widths=widths, results=results)
    check_table(out, list(networks.by_width))
    if maps and out.suffix in (".csv", ".parquet"):
        raise UserError(f"--out {out}: --maps needs an .npy or a .safetensors")
    compute, count = _compute(networks, layer, maps), 0
    with open_table(out, list(networks.by_width)) as table:
        for names, rows in passes(photos, networks, compute, running, name="features"):
            table.add(names, {width: values.float().numpy() for width, values in rows.items()})
            count += len(names)
    print(f"features of {count:,} images at widths {', '.join(map(str, networks.by_width))}: {out}")


def _compute(networks: Networks, layer: str | None, maps: bool) -> Callable[[ResNet, Tensor], Tensor]:
    """(network, images) to features."""
    stages = [f"layer{number + 1}" for number in range(next(iter(networks.by_width.values())).stages)]
    if layer is not None and layer not in stages:
        raise UserError(f"--stage {layer}: this network has {', '.join(stages)}; name one of them")
    place = stages.index(layer or stages[-1])

    def compute(network: ResNet, images: Tensor) -> Tensor:
        map_ = network.feature_maps(images)[place]
        return map_ if maps else F.adaptive_avg_pool2d(map_, 1).flatten(1)

    return compute
