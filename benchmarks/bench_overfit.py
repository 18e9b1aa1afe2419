"""Mask R-CNN on a small slimmable backbone learns 20 photos of COCO by heart, at every width. JSON.

    .venvs/detection/bin/python -m benchmarks.bench_overfit --coco COCO [--epochs 110] [--out FOLDER]

The photos are the first 20 of train2017 (by id) with one to three instances, none a crowd, each at least a fiftieth of
its photo; they are both splits. The backbone starts at random. `slimclr transfer` does everything else, so what it
shows is that losses, joint step, batch norms of the widths, evaluation and categories fit together; it says nothing
about other photos.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import machine
from slimclr.cli import main as slimclr
from slimclr.nn import SlimmableResNet
from slimclr.nn.weights import save_weights

WIDTHS = (1.0, 0.75, 0.5, 0.25)
PHOTOS = 20
WANTED = 50.0
RECIPE: dict[str, Any] = {
    "batch": 4,
    "lr": 0.012,
    "weight_decay": 0,
    "grad_clip": 10.0,
    "warmup_iterations": 50,
    "image_scale": [160, 160],
    "flip": 0.0,
    "workers": 0,
    "fpn_channels": 32,
    "fc_channels": 128,
    "mask_convs": 1,
    "anchor_scale": 4,
    "proposals": 50,
    "roi_sampling": 1,
    "rpn_samples": 64,
    "roi_samples": 32,
    "detections": 20,
}


def subset(coco: Path, out: Path) -> list[int]:
    """Make a folder of COCO's shape with the same photos, linked, as train and val; gives the photos' ids."""
    content = json.loads((coco / "annotations/instances_train2017.json").read_bytes())
    instances = defaultdict(list)
    for annotation in content["annotations"]:
        instances[annotation["image_id"]].append(annotation)

    def fits(image: dict[str, Any]) -> bool:
        own, pixels = instances[image["id"]], image["width"] * image["height"]
        return 1 <= len(own) <= 3 and all(not a["iscrowd"] and a["area"] >= pixels / 50 for a in own)

    chosen = sorted(filter(fits, content["images"]), key=lambda image: image["id"])[:PHOTOS]
    annotations = [annotation for image in chosen for annotation in instances[image["id"]]]
    (out / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (out / f"{split}2017").mkdir()
        for image in chosen:
            (out / f"{split}2017" / image["file_name"]).symlink_to(coco.absolute() / "train2017" / image["file_name"])
        text = json.dumps({"images": chosen, "annotations": annotations, "categories": content["categories"]})
        (out / f"annotations/instances_{split}2017.json").write_text(text)
    return [image["id"] for image in chosen]


def random_backbone(path: Path) -> None:
    """A slimmable ResNet-14 of 24 to 192 channels, as initialised."""
    torch.manual_seed(0)
    network = SlimmableResNet(14, 24, WIDTHS)
    save_weights(path, {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}, network.shape)


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, help="annotations/, train2017/")
    parser.add_argument("--epochs", type=int, default=110)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the detector and its metrics.json here")
    options = parser.parse_args()
    epochs = options.epochs
    recipe = RECIPE | {"epochs": epochs, "milestones": [epochs * 3 // 4, epochs * 9 // 10]}
    about = machine(torch.device("cuda" if options.gpus else "cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch), options.out or Path(scratch) / "out"
        photos = subset(options.coco, folder / "coco")
        random_backbone(folder / "weights.safetensors")
        start = time.perf_counter()
        arguments = ["transfer", "--name", "overfit", "--recipe", json.dumps(recipe), "--gpus", str(options.gpus)]
        arguments += ["--weights", str(folder / "weights.safetensors"), "--coco", str(folder / "coco")]
        arguments += ["--out", str(out / "metrics.json"), "--checkpoints", str(folder / "work")]
        if code := slimclr(arguments):
            raise SystemExit(code)
        seconds = time.perf_counter() - start
        widths = json.loads((out / "metrics.json").read_bytes())["widths"]
    result = {
        "machine": about | {"threads": torch.get_num_threads()},
        "photos": photos,
        "recipe": recipe,
        "seconds": round(seconds),
        "widths": widths,
        "reached": all(values["mask_ap"] > WANTED for values in widths.values()),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
