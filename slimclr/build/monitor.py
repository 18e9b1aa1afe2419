"""What watches a training: nearest neighbours on the features of every width."""

from slimclr.config import Pretrain
from slimclr.data.stores.images import Images
from slimclr.engine.distributed import Processes
from slimclr.nn import SlimmableResNet
from slimclr.probe.knn import KNNMonitor


def build_monitor(
    recipe: Pretrain, backbone: SlimmableResNet, images: Images, *, seed: int, where: Processes
) -> KNNMonitor | None:
    """The monitor of a recipe, on some of the training images; None where it asks for none."""
    if recipe.knn is None:
        return None
    return KNNMonitor(recipe.knn, backbone, images, image_size=recipe.image_size, seed=seed, where=where)
