"""What comparing two ways of making views needs; for `compare_loaders` and tests. DALI is imported where it runs."""

from collections.abc import Iterator, Sequence

import numpy as np

from slimclr.data.views.draw import Drawn, draw, view_rng
from slimclr.data.views.recipes import GREY, View, recipes

BATCH = 50


def ks_limit(draws: int) -> float:
    """Two samples of so many draws from one distribution are further apart than this once in a thousand times."""
    return 1.95 * (2 / draws) ** 0.5


def random_views(image_size: int | None = None) -> dict[str, View]:
    """Every view of every training recipe, each once, as `<recipe><number>`.

    Args:
        image_size: Side of the views in pixels; None leaves them as in `views.yaml`.
    """
    found: dict[str, View] = {}
    for name, recipe in recipes().training.items():
        own = () if recipe.sub_networks is None else (recipe.sub_networks,)
        for number, view in enumerate((*recipe.views, *own)):
            if image_size is not None:
                view = view.model_copy(update={"size": image_size})
            if view not in found.values():
                found[f"{name}{number}"] = view
    return found


def drawn_views(view: View, count: int, height: int, width: int, seed: int = 0) -> list[Drawn]:
    """So many draws of a view of one image."""
    return [draw(view, view_rng(seed, 0, index, 0), height, width) for index in range(count)]


def dali_batches(view: View, files: Sequence[bytes], drawn: Sequence[Drawn]) -> Iterator[np.ndarray]:
    """Normalised views (n, 3, size, size) of files by DALI on the CPU, in batches of 50."""
    from nvidia.dali import Pipeline, fn

    from slimclr.data.views import dali as dali_views

    batches = [slice(start, start + BATCH) for start in range(0, len(files), BATCH)]

    def source(number: int) -> tuple[list[np.ndarray], np.ndarray]:
        # DALI asks for batches ahead of the last one, too.
        chosen = batches[min(number, len(batches) - 1)]
        contents = [np.frombuffer(dali_views.dali_bytes(data), np.uint8) for data in files[chosen]]
        return contents, dali_views.pack(view, drawn[chosen])

    pipeline = Pipeline(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        content, packed = fn.external_source(source, num_outputs=2)
        pipeline.set_outputs(*dali_views.build([view], content, [packed]))
    pipeline.build()
    for _ in batches:
        yield np.array(pipeline.run()[0].as_array())


def pixels(made: np.ndarray, view: View) -> np.ndarray:
    """Values from 0 to 255 of normalised views (..., 3, h, w)."""
    mean, std = (np.array(part, np.float32)[:, None, None] for part in (view.mean, view.std))
    return (np.asarray(made, np.float32) * std + mean) * 255


def measured(made: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """Brightness, saturation, hue in degrees and sharpness (called blur) of normalised views (n, 3, h, w)."""
    values = pixels(made, view).clip(0, 255)
    greatest, least = values.max(1), values.min(1)
    around = np.exp(2j * np.pi * np.array([0, 1 / 3, 2 / 3]))
    hue = (values.sum((2, 3), dtype=np.float64) * around).sum(1)
    light = np.tensordot(values, np.array(GREY, np.float32), (1, 0))
    steps = np.abs(np.diff(light, axis=1)).mean((1, 2)) + np.abs(np.diff(light, axis=2)).mean((1, 2))
    # Rounded, so that views without colour have none in both.
    saturation = ((greatest - least) / np.maximum(greatest, 1)).mean((1, 2)).round(3)
    return {
        "brightness": light.mean((1, 2)),
        "saturation": saturation,
        # Views without colour have no hue: 0, in whatever way rounding would turn them.
        "hue": np.where(np.abs(hue) > light[0].size, np.degrees(np.angle(hue)), 0),
        "blur": steps / np.maximum(light.std((1, 2)), 1),
    }
