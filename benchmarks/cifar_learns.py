"""Does SlimCLR-MoCo v2 learn? Small runs on CIFAR-10 on a CPU, against the random backbone. JSON.

    python -m benchmarks.cifar_learns --source CIFAR --work FOLDER --out FILE.json [--images 10000] [--seeds 0 1 2]

`CIFAR` is what `slimclr cifar --source` takes. For every run below and every seed `slimclr pretrain` and
`slimclr quick` run as a user runs them, one after the other, with the recipes of config/runs/cifar10_small; a run that
is done is not made again. `FILE.json` is written after each. Of every run: the mean contrastive loss of width 1.0
beside ln(K + 1), which an encoder reaches whose embeddings are all the same, and the contrastive accuracy of every
width, both over tenths of the training; nearest neighbours and ridge (a linear classifier on frozen features) on the
test images.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import machine
from slimclr.config import Recipe, load_recipe
from slimclr.data.stores import open_images
from slimclr.files import write_json
from slimclr.losses.reweighting import loss_weights

RECIPES = Path(__file__).parents[1] / "config" / "runs" / "cifar10_small"
SHUFFLED, ALONE, RANDOM = "slimclr_mocov2", "slimclr_mocov2_unshuffled", "random_resnet14w16"
PARTS = 10


def slimclr(*words: object) -> None:
    """Run a command of this package."""
    subprocess.run([sys.executable, "-m", "slimclr", *map(str, words)], check=True)


def subset(source: Path, images: int, out: Path) -> None:
    """The first images of every class, as a folder of classes."""
    store = open_images(source)
    each = images // len(store.classes)
    for label, name in enumerate(store.classes):
        (out / name).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(store.labels == label)[:each].tolist():
            (out / name / Path(store.keys[index]).name).write_bytes(store.read(index))


def curve(records: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Loss of width 1.0, accuracies and gradient norm, means over tenths of the training."""
    pretrain = recipe.pretrain
    assert pretrain is not None
    weight = loss_weights(pretrain.loss_weights, pretrain.backbone.widths)[1.0]
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines = [line for line in lines if "widths" in line]
    found = []
    for part in np.array_split(np.array(lines, dtype=object), min(PARTS, len(lines))):
        losses = [line["widths"]["1.0"]["loss"] / (weight if len(line["widths"]) > 1 else 1.0) for line in part]
        accuracies: dict[str, list[float]] = {}
        for line in part:
            for width, values in line["widths"].items():
                accuracies.setdefault(width, []).append(values["accuracy"])
        found.append(
            {
                "to_step": part[-1]["step"],
                "loss_width_1": round(statistics.mean(losses), 3),
                "accuracy": {width: round(statistics.mean(values), 1) for width, values in accuracies.items()},
                "gradient_norm": round(statistics.mean(line["gradient_norm"] for line in part), 3),
            }
        )
    return found


def measured(run: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """Train and probe one run, or read what an earlier start measured."""
    place = work / run / f"seed{seed}"
    if (place / "result.json").is_file():
        return json.loads((place / "result.json").read_text())
    path = RECIPES / f"{run}.yaml"
    recipe = load_recipe(path)
    assert recipe.pretrain is not None
    train, val = data / "train", data / "val.lmdb"
    same = ("--recipe", path, "--name", run, "--seed", seed)
    start, before = time.perf_counter(), os.times().children_user
    slimclr("pretrain", *same, "--checkpoints", place / "checkpoints", "--data", train, "--out", place)
    seconds, cpu = time.perf_counter() - start, os.times().children_user - before
    probed = place / "quick.json"
    features = ("--checkpoints", place / "features", "--weights", place / "weights.safetensors", "--out", probed)
    slimclr("quick", *same, *features, "--train", train, "--val", val)
    quick, training = (json.loads(file.read_text()) for file in (probed, place / "metrics.json"))
    kept = ("knn_top1", "ridge_top1")
    result: dict[str, Any] = {
        "run": run,
        "seed": seed,
        "widths": {
            width: {key: round(value, 2) for key, value in figures.items() if key.startswith(kept)}
            for width, figures in quick["widths"].items()
        },
    }
    if recipe.pretrain.method.name == "mocov2":
        result |= {
            "steps": training["steps"],
            "seconds": round(seconds),
            "cpu_seconds": round(cpu),
            "ln_queue_plus_1": round(math.log(recipe.pretrain.method.queue + 1), 3),
            "curve": curve(place / "metrics.jsonl", recipe),
        }
    write_json(place / "result.json", result)
    return result


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and least and greatest value of every figure over a run's seeds, by run and width."""
    found: dict[str, Any] = {}
    for run in dict.fromkeys(result["run"] for result in results):
        own = [result["widths"] for result in results if result["run"] == run]
        found[run] = {
            width: {
                key: [round(statistics.mean(values), 1), round(min(values), 1), round(max(values), 1)]
                for key in own[0][width]
                for values in [[widths[width][key] for widths in own]]
            }
            for width in own[0]
        }
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="CIFAR-10, as `slimclr cifar` takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder of the images and runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--images", type=int, default=10_000, help="training images, the first of every class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=[RANDOM, SHUFFLED, ALONE])
    options = parser.parse_args()
    about = {"command": shlex.join(["python", "-m", "benchmarks.cifar_learns", *sys.argv[1:]])}
    about |= {"machine": machine(torch.device("cpu")) | {"threads": torch.get_num_threads()}, "images": options.images}
    data = options.work / f"images{options.images}"
    if not (data / "complete").is_file():
        slimclr("cifar", "--source", options.source, "--out", data)
        subset(data / "train.lmdb", options.images, data / "train")
        (data / "complete").touch()
    results = []
    for seed in options.seeds:
        for run in options.runs:
            results.append(measured(run, seed, data, options.work))
            shown = "in each: [mean, least, greatest] in percent over seeds"
            document = about | {"seeds": options.seeds, "summary_is": shown, "summary": summary(results)}
            write_json(options.out, document | {"runs": results})


if __name__ == "__main__":
    main()
