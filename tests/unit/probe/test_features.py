"""Stored features: blocks of images, whole or absent, of these weights and images or refused."""

import pytest
import torch

from slimclr.data.loading.loaders import validation_loader
from slimclr.errors import UserError
from slimclr.probe.features import Features, extract

WEIGHTS = {"weights": "a" * 64, "train_images": "b" * 64}
SIZES = {1.0: 3, 0.5: 2}


def backbone(views):
    """The mean of each colour, and of the image's left and right half."""
    halves = torch.stack([views[..., :16].mean(dim=(1, 2, 3)), views[..., 16:].mean(dim=(1, 2, 3))], dim=1)
    return {1.0: views.mean(dim=(2, 3)), 0.5: halves}


def loader(images, numbers, parts, batch):
    chosen = [index for number in numbers for index in parts[number]]
    return validation_loader(images, resize=36, image_size=32, batch=batch, workers=0, chosen=chosen)


def filled(images, folder, *, block, batch, numbers=None, stop_after=10**9):
    features, seen = Features(folder, len(images), SIZES, WEIGHTS, block=block), [0]
    numbers = features.missing() if numbers is None else numbers

    def goes_on(count):
        seen[0] += count
        return seen[0] < stop_after

    batches = loader(images, numbers, features.parts, batch)
    extract(backbone, batches, features, numbers, keys=images.keys, goes_on=goes_on)
    return features, seen[0]


def whole(features, width):
    return torch.cat([rows for _, rows in features.blocks(width)])


@pytest.mark.parametrize(("block", "batch"), [(36, 36), (10, 7), (4, 16), (5, 5)])
def test_blocks_and_batches_of_any_size_give_the_same_features(images, tmp_path, block, batch):
    features, seen = filled(images, tmp_path, block=block, batch=batch)
    assert seen == 36
    assert features.missing() == []
    assert features.missing_bytes() == 0
    ((views,), _) = next(iter(loader(images, [0], [range(36)], 36)))
    for width, rows in backbone(views).items():
        assert torch.allclose(whole(features, width), rows, atol=1e-6)
    assert [part for part, _ in features.blocks(0.5)] == features.parts
    assert whole(features, 0.5).dtype == torch.float32


def test_extraction_goes_on_with_the_blocks_that_are_missing(images, tmp_path):
    features, _ = filled(images, tmp_path / "one", block=10, batch=4, stop_after=16)
    assert features.missing() == [1, 2, 3]
    assert features.missing_bytes() == 26 * 5 * 4
    # Two processes share the rest.
    filled(images, tmp_path / "one", block=10, batch=4, numbers=[1, 3])
    _, seen = filled(images, tmp_path / "one", block=10, batch=4, numbers=[2])
    assert seen == 10
    other, _ = filled(images, tmp_path / "other", block=10, batch=36)
    assert torch.allclose(whole(features, 1.0), whole(other, 1.0), atol=1e-6)


def test_features_of_other_weights_and_damaged_files_are_refused(images, tmp_path):
    features, _ = filled(images, tmp_path / "train", block=36, batch=36)
    others = Features(tmp_path / "train", 36, SIZES, WEIGHTS | {"weights": "c" * 64}, block=36)
    with pytest.raises(UserError) as error:
        others.read(0, 1.0)
    (file,) = (tmp_path / "train").iterdir()
    assert str(error.value) == (
        f"{file}: features of something else (weights: aaaaaaaaaaaa -> cccccccccccc); remove {tmp_path} and run this "
        "stage again"
    )
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match="not a whole file of features"):
        features.read(0, 1.0)


def test_features_that_are_not_finite_name_the_image(images, tmp_path):
    def broken(views):
        found = backbone(views)
        found[0.5][2, 1] = float("nan")
        return found

    features = Features(tmp_path, 36, SIZES, WEIGHTS, block=36)
    with pytest.raises(UserError, match=r"features of n00000000/2.JPEG at width 0.5 are not finite \(1 of 9 images"):
        extract(broken, loader(images, [0], features.parts, 9), features, [0], keys=images.keys, goes_on=lambda _: True)
    assert features.missing() == [0]
