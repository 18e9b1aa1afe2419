"""The kNN monitor of a training."""

from slimclr.config import Pretrain
from slimclr.data.stores.base import Images
from slimclr.engine.distributed import Process
from slimclr.nn import SlimmableResNet
from slimclr.probe.knn import KNNMonitor


def build_monitor(
    recipe: Pretrain, backbone: SlimmableResNet, images: Images, *, seed: int, process: Process
) -> KNNMonitor | None:
    """The monitor of a recipe, on some of the training images; None where it asks for none."""
    if recipe.knn is None:
        return None
    return KNNMonitor(recipe.knn, backbone, images, image_size=recipe.image_size, seed=seed, process=process)
